from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, UsageError
from kdctl.records import RunState, StoredRun
from kdctl.report.statistics import summarize, welch
from kdctl.report.table_format import report_formats

RecipeWriter = Callable[..., Path]

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd"]
optimizer.learning_rate = [0.1, 0.05]
"""
TWO_SEEDS = "seeds = [0, 1]"


def top1(run: StoredRun) -> float:
    assert run.result is not None
    return run.result.selected["last"].test.top1


@pytest.mark.extended
def test_winner_and_baseline_run_again_on_seeds_that_chose_nothing(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    original = workflows.sweep(recipe(GRID, seeds=TWO_SEEDS), workspace).runs
    plan = workflows.plan_confirmation(workspace, "tiny", num_seeds=3)
    assert plan.seeds == (2, 3, 4)
    ((winner, baseline),) = plan.candidates
    means: dict[str, list[float]] = {}
    for run in original[1:]:  # the first is the teacher
        means.setdefault(run.configuration, []).append(top1(run))
    assert fmean(means[winner.configuration]) == max(map(fmean, means.values()))
    assert (winner.role, winner.num_candidates) == ("winner", 3)
    table = workflows.confirm(plan, workspace)
    assert table is not None
    fresh = workspace.store.runs(sweep="tiny-confirm")
    assert {run.seed for run in fresh} == {2, 3, 4}
    assert {run.configuration for run in fresh} == {winner.configuration, baseline.configuration}
    again = {key: [top1(run) for run in fresh if run.configuration == key] for key in means}
    first, second = table.records()
    assert first["original_mean"] == pytest.approx(fmean(means[winner.configuration]))
    assert first["fresh_mean"] == pytest.approx(fmean(again[winner.configuration]))
    assert (first["original_n"], first["fresh_n"], second["fresh_n"]) == (2, 3, 3)
    assert first["shift"] == pytest.approx(first["fresh_mean"] - first["original_mean"])
    test = welch(*(summarize(again[item.configuration]) for item in (winner, baseline)))
    assert first["p"] == (pytest.approx(test.p, abs=1e-6) if test else None)
    assert "seeds (2, 3, 4) that chose nothing" in table.notes[0]
    assert "chosen by the test accuracy" in table.notes[0]
    for name in report_formats.names():
        assert report_formats.get(name).item(table)


@pytest.mark.extended
def test_held_out_images_choose_the_winner_and_test_images_where_there_are_none(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    def chosen(sweep: str) -> tuple[str, str]:
        ((winner, other),) = workflows.plan_confirmation(workspace, sweep).candidates
        assert winner.chosen_by == other.chosen_by
        return winner.configuration, winner.chosen_by

    path = recipe(GRID, seeds=TWO_SEEDS)
    workflows.sweep(path, workspace)
    workflows.sweep(workflows.open_recipe(path, ["name=held-out", "data.val_fraction=0.3"]), workspace)
    assert chosen("tiny")[1] == "test"
    means: dict[str, list[float]] = {}
    for run in workspace.store.runs(sweep="held-out")[1:]:
        assert run.result is not None
        held_out = run.result.selected["last"].val
        assert held_out is not None
        means.setdefault(run.configuration, []).append(held_out.top1)
    best = max(means, key=lambda configuration: fmean(means[configuration]))
    assert chosen("held-out") == (best, "val")
    table = workflows.confirm(workflows.plan_confirmation(workspace, "held-out"), workspace)
    assert table is not None
    assert "chosen by the validation accuracy" in table.notes[0]


@pytest.mark.extended
def test_a_teacher_that_was_removed_is_named_before_anything_trains(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    teacher = workflows.sweep(recipe(GRID), workspace).runs[0]
    plan = workflows.plan_confirmation(workspace, "tiny")
    (workspace.folder(teacher.key).path / "last.pt").unlink()
    with pytest.raises(KdctlError, match=f"run {teacher.key}, is finished, but its model .* is gone") as gone:
        workflows.confirm(plan, workspace)
    assert f"kdctl runs rm {teacher.key} --force" in str(gone.value.mistakes[0].hint)
    workflows.remove(workspace, workflows.plan_removal(workspace, [teacher.key], force=True))
    with pytest.raises(KdctlError, match=f"run {teacher.key}, is no longer in the store"):
        workflows.confirm(plan, workspace)
    workflows.sweep(recipe(GRID), workspace)
    assert workflows.confirm(plan, workspace) is not None


@pytest.mark.extended
def test_a_report_of_the_confirmation_is_that_of_the_sweep(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    shown = """
[report]
rows = ["method", "learning_rate"]
[[reported]]
source = "a paper"
match = { method = "ce" }
top1 = 64.0
"""
    workflows.sweep(recipe(GRID + shown), workspace)
    workflows.confirm(workflows.plan_confirmation(workspace, "tiny", num_seeds=2), workspace)
    table = workflows.report(workspace, sweep=["tiny-confirm"])
    assert [record["published_mean"] for record in table.records() if record["method"] == "ce"] == [64.0]
    assert "learning_rate" in table.records()[0]


@pytest.mark.extended
def test_confirming_again_trains_nothing_and_more_seeds_only_what_is_new(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.sweep(recipe(GRID, seeds=TWO_SEEDS), workspace)
    first = workflows.confirm(workflows.plan_confirmation(workspace, "tiny"), workspace)
    plan = workflows.plan_confirmation(workspace, "tiny")
    assert plan.to_do == []
    assert workflows.confirm(plan, workspace) == first
    more = workflows.plan_confirmation(workspace, "tiny", num_seeds=4)
    assert [run.seed for run in more.to_do] == [5, 5]
    assert {run.attempts for run in workspace.store.runs()} == {1}


@pytest.mark.extended
def test_a_confirmation_that_was_stopped_goes_on(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.sweep(recipe(GRID, seeds=TWO_SEEDS), workspace)
    plan = workflows.plan_confirmation(workspace, "tiny")
    assert workflows.confirm(plan, workspace, stop=lambda: True) is None
    states = {run.state for run in workspace.store.runs(sweep="tiny-confirm")}
    assert states <= {RunState.PLANNED, RunState.INTERRUPTED}
    assert workflows.confirm(workflows.plan_confirmation(workspace, "tiny"), workspace) is not None


def test_without_a_baseline_the_winner_meets_the_second_best(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.sweep(recipe("method = 'kd'\n[grid]\noptimizer.learning_rate = [0.1, 0.05]"), workspace)
    (pair,) = workflows.plan_confirmation(workspace, "tiny").candidates
    assert [item.role for item in pair] == ["winner", "runner-up"]


def test_a_lone_configuration_is_confirmed_alone(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.sweep(recipe("method = 'ce'\n[grid]\noptimizer.learning_rate = [0.1]", teacher=""), workspace)
    plan = workflows.plan_confirmation(workspace, "tiny")
    table = workflows.confirm(plan, workspace)
    assert table is not None
    (row,) = table.records()
    assert (row["role"], row["difference"], row["original_std"]) == ("winner", None, None)
    assert "nan" not in json.dumps(table.records()).lower()


@pytest.mark.extended
def test_winners_that_tie_with_others_are_counted(workspace: Workspace, recipe: RecipeWriter) -> None:
    frozen = "method = 'ce'\n[grid]\noptimizer.learning_rate = [1e-12, 1e-11, 1e-10]"
    workflows.sweep(recipe(frozen, teacher=""), workspace)
    plan = workflows.plan_confirmation(workspace, "tiny")
    table = workflows.confirm(plan, workspace)
    assert table is not None
    assert plan.candidates[0][0].num_best == 3
    assert any("first of several with the same accuracy" in note and "(of 3)" in note for note in table.notes)


def test_what_cannot_be_confirmed_is_refused(workspace: Workspace, recipe: RecipeWriter) -> None:
    with pytest.raises(KdctlError, match="there is no sweep 'tiny'"):
        workflows.plan_confirmation(workspace, "tiny")
    path = recipe("method = 'ce'\n[grid]\noptimizer.learning_rate = [0.1]", teacher="")
    workflows.sweep(path, workspace, stop=lambda: True)
    with pytest.raises(KdctlError, match="no run of the sweep 'tiny' has finished"):
        workflows.plan_confirmation(workspace, "tiny")
    workflows.sweep(path, workspace)
    taken = workflows.open_recipe(path, ["name=tiny-confirm"])
    workflows.sweep(taken, workspace)
    with pytest.raises(UsageError, match="is a confirmation itself"):
        workflows.plan_confirmation(workspace, "tiny-confirm")
    with pytest.raises(KdctlError, match="is no confirmation of 'tiny'"):
        workflows.confirm(workflows.plan_confirmation(workspace, "tiny"), workspace)
