from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.records import Selection

GRID = "[[grid]]\nmethod = ['ce']\n[[grid]]\nmethod = ['kd']\n"


def test_a_notebook_gets_records_of_the_table(workspace: Workspace, recipe: Callable[..., Path]) -> None:
    workflows.sweep(recipe(GRID, seeds="seeds = [0, 1]"), workspace)
    table = workflows.report(workspace)
    frame = pd.DataFrame(table.records())
    assert list(frame["n"]) == [2, 2]
    assert workflows.report(workspace, sweep="tiny", select=Selection.BEST_TEST) != table


def test_a_notebook_gets_a_frame_with_one_row_for_each_run(
    workspace: Workspace, recipe: Callable[..., Path]
) -> None:
    workflows.sweep(recipe(GRID, seeds="seeds = [0, 1]"), workspace)
    frame = workflows.frame(workspace)
    assert len(frame) == len(workspace.store.runs(sweep="tiny"))
    assert {"seed", "top1"} <= set(frame.columns)


def test_a_sweep_that_is_not_there_is_refused_with_the_nearest_name(
    workspace: Workspace, recipe: Callable[..., Path]
) -> None:
    workflows.sweep(recipe("method = 'ce'", teacher=""), workspace)
    with pytest.raises(KdctlError, match="no sweep 'tinny'") as refusal:
        workflows.report(workspace, sweep="tinny")
    assert "did you mean 'tiny'" in refusal.value.hint


def test_an_empty_store_says_how_to_fill_it(workspace: Workspace) -> None:
    with pytest.raises(KdctlError, match="no runs yet") as refusal:
        workflows.report(workspace)
    assert "kdctl sweep" in refusal.value.hint


def test_runs_outside_of_any_sweep_are_reported_too(
    workspace: Workspace, recipe: Callable[..., Path]
) -> None:
    workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    assert len(workflows.report(workspace).rows) == 1
