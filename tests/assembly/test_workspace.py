from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.errors import KdctlError


def test_planning_makes_nothing_that_is_not_there(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    path = recipe()
    with workflows.open_for_planning(tmp_path / "runs", tmp_path / "data") as workspace:
        assert len(workflows.plan_training(path, workspace).runs) == 1
    assert not (tmp_path / "runs").exists()


def test_planning_sees_the_runs_that_are_there(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    path = recipe("method = 'ce'", teacher="")
    with workflows.open_workspace(tmp_path, num_threads=1) as workspace:
        (run,) = workflows.train(path, workspace)
    with workflows.open_for_planning(tmp_path) as workspace:
        assert workflows.plan_training(path, workspace).states == {run.key: run.state}


def test_a_workspace_that_must_be_there_is_not_made(tmp_path: Path) -> None:
    with (
        pytest.raises(KdctlError, match="no database"),
        workflows.open_workspace(tmp_path / "runs", create=False),
    ):
        pass
    assert not (tmp_path / "runs").exists()


def test_all_names_of_the_notebook_interface_exist() -> None:
    assert all(callable(getattr(workflows, name)) for name in workflows.__all__)
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        workflows.swep  # noqa: B018


def test_a_store_that_stands_in_is_called_like_the_one_that_is_not_there(tmp_path: Path) -> None:
    with (
        workflows.open_for_planning(tmp_path / "runs", tmp_path) as workspace,
        pytest.raises(KdctlError, match="there is no run") as error,
    ):
        workspace.store.run("0123456789abcdef")
    assert f"in {tmp_path / 'runs' / 'kdctl.db'}." in error.value.problem
