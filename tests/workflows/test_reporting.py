from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, UsageError
from kdctl.records import Selection
from kdctl.report.wording import SELECTION_WORDS
from kdctl.workflows.plots import figure_data

GRID = "[[grid]]\nmethod = ['ce']\n[[grid]]\nmethod = ['kd']\n"


@pytest.mark.extended
def test_a_notebook_gets_records_of_the_table(workspace: Workspace, recipe: Callable[..., Path]) -> None:
    workflows.sweep(recipe(GRID, seeds="seeds = [0, 1]"), workspace)
    table = workflows.report(workspace)
    frame = pd.DataFrame(table.records())
    assert list(frame["n"]) == [2, 2]
    assert workflows.report(workspace, sweep="tiny", select=Selection.BEST_TEST) != table


@pytest.mark.extended
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
    with pytest.raises(UsageError, match="a sweep is named, and all runs are asked for"):
        workflows.report(workspace, sweep="tiny", everything=True)


def test_an_empty_store_says_how_to_fill_it(workspace: Workspace) -> None:
    with pytest.raises(KdctlError, match="no runs yet") as refusal:
        workflows.report(workspace)
    assert "kdctl sweep" in refusal.value.hint


def test_runs_outside_of_any_sweep_are_reported_too(
    workspace: Workspace, recipe: Callable[..., Path]
) -> None:
    workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    assert len(workflows.report(workspace).rows) == 1


def test_figures_and_page_show_the_epoch_that_the_recipe_reports(
    workspace: Workspace, recipe: Callable[..., Path]
) -> None:
    workflows.sweep(recipe("method = 'ce'\n[report]\nselect = 'best-test'\n", teacher=""), workspace)
    assert SELECTION_WORDS[Selection.BEST_TEST] in workflows.report(workspace).caption
    assert figure_data(workspace).select is Selection.BEST_TEST
    assert figure_data(workspace, sweep=["tiny"], select=None).select is Selection.BEST_TEST
    assert figure_data(workspace, select=Selection.LAST).select is Selection.LAST
    assert figure_data(workspace, everything=True).select is Selection.LAST


@pytest.mark.extended
def test_a_run_of_two_sweeps_is_shown_as_one_of_that_which_was_asked_for(
    workspace: Workspace, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    for name in ("first", "second"):
        workflows.sweep(override(recipe("method = 'ce'", teacher=""), name=name), workspace)
    for asked, group in (({"sweep": "first"}, "first"), ({"sweep": ["second"]}, "second"), ({}, "second")):
        folder = tmp_path / f"of {asked}"
        assert workflows.export_runs("tensorboard", folder, workspace, **asked) == 1
        assert [path.name for path in folder.iterdir()] == [group]
    for asked, title in (
        ({"sweep": "first"}, "first"),
        ({}, "second"),
        ({"where": "method=ce"}, "second"),
        ({"everything": True}, "first, second"),
    ):
        assert f"<title>kdctl: {title}</title>" in workflows.html_page([], workspace, **asked)


def override(recipe: Path, *, name: str) -> Path:
    """Give the same runs another sweep."""
    other = recipe.with_name(f"{name}.toml")
    other.write_text(recipe.read_text().replace('name = "tiny"', f'name = "{name}"'))
    return other
