"""What these tests must not leave behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace


@pytest.fixture(autouse=True)
def leave_no_trace(
    forget_plugins: object, torch_settings: object, optuna_reads_its_history_once: object
) -> None:
    """Give other tests the plug-ins and the torch settings that they had."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Workspace]]:
    """Sweep a recipe, once for all tests of a file, in a workspace that they only look at."""
    known: dict[str, Workspace] = {}

    def sweep(recipe: Path) -> Workspace:
        content = recipe.read_text()
        if content not in known:
            place = tmp_path_factory.mktemp("finished")
            shutil.copy(recipe, place / "recipe.toml")
            opened = workflows.open_workspace(place / "runs", place / "data", num_threads=1)
            known[content] = stack.enter_context(opened)
            assert workflows.sweep(place / "recipe.toml", known[content]).complete
        return known[content]

    with ExitStack() as stack:
        yield sweep


@pytest.fixture
def copied(finished: Callable[[Path], Workspace], tmp_path: Path) -> Iterator[Callable[[Path], Workspace]]:
    """Return a recipe's finished sweep in a workspace of the test's own."""

    def copy(recipe: Path) -> Workspace:
        shutil.copytree(finished(recipe).runs, tmp_path / "copied")
        opened = workflows.open_workspace(tmp_path / "copied", tmp_path / "data", num_threads=1)
        return stack.enter_context(opened)

    with ExitStack() as stack:
        yield copy
