from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError
from kdctl.evaluation_records import Evaluation
from kdctl.records import RunState, SplitMetrics, StoredRun
from kdctl.workflows.metering import spent_seconds

RecipeWriter = Callable[..., Path]

GRID = "method = 'ce'\n[grid]\noptimizer.learning_rate = [1e30, 1e-9, 0.05, 0.5]\n"
RACING = "[racing]\nmargin = 0.001\nmetric = 'test'\nmin_seeds = 2\n"
SEEDS = "seeds = [0, 1, 2, 3]"


class Ended(Silent):
    """Remembers how runs ended."""

    def __init__(self) -> None:
        self.states: list[tuple[str, RunState, str]] = []
        self.started_keys: list[str] = []

    def started(self, plans) -> None:
        self.started_keys.extend(plan.key for plan in plans)

    def ended(self, plan, state, result, reason) -> None:
        self.states.append((plan.key, state, reason))


def top1(run: StoredRun) -> float:
    assert run.result is not None
    return run.result.selected["last"].test.top1


def by_rate(runs: tuple[StoredRun, ...]) -> dict[float, list[StoredRun]]:
    rates: dict[float, list[StoredRun]] = {}
    for run in runs:
        rates.setdefault(run.plan["optimizer"]["learning_rate"], []).append(run)
    return rates


def states(workspace: Workspace) -> dict[str, RunState]:
    return {run.key: run.state for run in workspace.store.runs()}


@pytest.mark.extended
def test_a_race_drops_what_trails_after_enough_seeds_and_says_so(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    seen = Ended()
    outcome = workflows.sweep(recipe(GRID + RACING, teacher="", seeds=SEEDS), workspace, progress=seen)
    assert outcome.complete
    rates = by_rate(outcome.runs)
    means = {rate: fmean(map(top1, runs[:2])) for rate, runs in rates.items() if rate < 1}
    for rate, runs in rates.items():
        ended = [run.state for run in runs]
        if rate == 1e30:
            assert ended == [RunState.DIVERGED] * 2 + [RunState.PRUNED] * 2
        elif means[rate] < max(means.values()) - 0.001:
            assert ended[:2] == [RunState.FINISHED] * 2
            assert ended[3] is RunState.PRUNED
            assert "trails" in runs[3].reason
        else:
            assert ended[2] is RunState.FINISHED
    pruned = {run.key for run in outcome.runs if run.state is RunState.PRUNED}
    assert pruned
    assert pruned == {key for key, state, _ in seen.states if state is RunState.PRUNED}
    assert not pruned & set(seen.started_keys)
    table = workflows.report(workspace)
    dropped = [rate for rate, runs in rates.items() if RunState.PRUNED in {run.state for run in runs}]
    assert table.caption.endswith(f"; {len(dropped)} of {len(rates)} configurations dropped early")
    notes = " ".join(table.notes)
    assert "were dropped before all of their seeds had run" in notes
    assert "all diverged" in notes


@pytest.mark.extended
def test_a_race_that_was_stopped_ends_like_one_that_was_not(
    workspace: Workspace, recipe: RecipeWriter, tmp_path: Path
) -> None:
    path = recipe(GRID + RACING, teacher="", seeds=SEEDS)
    workflows.sweep(path, workspace)
    with workflows.open_workspace(tmp_path / "again", num_threads=1) as again:
        for number in range(1, 40):
            calls = iter(range(number))
            if workflows.sweep(path, again, stop=lambda calls=calls: next(calls, None) is None).complete:
                break
        assert states(again) == states(workspace)
    seen = Ended()
    workflows.sweep(path, workspace, progress=seen)
    assert (seen.started_keys, seen.states) == ([], [])


@pytest.mark.extended
def test_without_the_race_the_dropped_runs_are_run_after_all(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    workflows.sweep(recipe(GRID + RACING, teacher="", seeds=SEEDS), workspace)
    pruned = {key for key, state in states(workspace).items() if state is RunState.PRUNED}
    plain = recipe(GRID, teacher="", seeds=SEEDS)
    assert {plan.key for plan in workflows.plan_sweep(plain, workspace).to_do} == pruned
    seen = Ended()
    workflows.sweep(plain, workspace, progress=seen)
    assert set(seen.started_keys) == pruned
    assert RunState.PRUNED not in states(workspace).values()
    assert "dropped" not in workflows.report(workspace).caption


@pytest.mark.extended
def test_a_student_without_a_teacher_never_loses_a_race_to_taught_ones(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    body = (
        "[[grid]]\nmethod = ['ce', 'kd']\noptimizer.learning_rate = [1e-9]\n"
        "[[grid]]\nmethod = ['kd']\noptimizer.learning_rate = [0.05]\n"
        "[racing]\nmargin = 0.001\nmetric = 'test'\namong = 'methods'\n"
    )
    outcome = workflows.sweep(recipe(body, seeds="seeds = [0, 1, 2]"), workspace)
    found = {
        (method, rate): [
            run for run in runs if run.plan["method"]["name"] == method and run.seed in (0, 1, 2)
        ]
        for rate, runs in by_rate(outcome.runs).items()
        for method in ("ce", "kd")
    }
    alone, idle, taught = found["ce", 1e-9], found["kd", 1e-9], found["kd", 0.05]
    assert fmean(map(top1, taught)) > fmean(map(top1, alone)) + 0.001, "else it would not have lost anyway"
    assert [run.state for run in alone] == [RunState.FINISHED] * 3
    assert [run.state for run in idle] == [RunState.FINISHED] * 2 + [RunState.PRUNED]


@pytest.mark.extended
def test_no_more_seeds_are_spent_on_a_mean_that_is_known(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = "method = 'ce'\n[grid]\noptimizer.learning_rate = [1e-9, 0.05]\n[budget]\ntarget_std_error = 99\n"
    outcome = workflows.sweep(recipe(body, teacher="", seeds="seeds = 5"), workspace)
    assert outcome.complete
    for runs in by_rate(outcome.runs).values():
        assert [run.state for run in runs] == [RunState.FINISHED] * 3 + [RunState.PRUNED] * 2
        assert "enough after 3 seeds" in runs[-1].reason


@pytest.mark.extended
def test_a_sweep_ends_after_so_many_runs_and_goes_on_when_more_are_allowed(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    body = "[grid]\noptimizer.learning_rate = [0.01, 0.05]\n[budget]\nmax_runs = {}\n"
    few = recipe(body.format(3), seeds="seeds = [0, 1]", method="method = 'kd'")
    for _ in range(2):  # a second start has nothing left to spend
        outcome = workflows.sweep(few, workspace)
        assert not outcome.complete
        assert outcome.budget == "max_runs = 3 were started"
        finished = [run for run in outcome.runs if run.state is RunState.FINISHED]
        assert len(finished) == 4  # a teacher besides
        assert {run.attempts for run in finished} == {1}
    assert [run.seed for run in outcome.runs if run.state is RunState.PLANNED] == [1]
    more = workflows.sweep(recipe(body.format(4), seeds="seeds = [0, 1]", method="method = 'kd'"), workspace)
    assert (more.complete, more.budget) == (True, "")


def test_a_search_ends_after_so_many_runs(workspace: Workspace, recipe: RecipeWriter) -> None:
    body = (
        "method = 'ce'\n[search]\ntrials = 5\nmetric = 'test'\nsampler = 'random'\n"
        "[search.space]\noptimizer.learning_rate = {}\n[budget]\nmax_runs = 3\n"
    )
    outcome = workflows.sweep(recipe(body, teacher=""), workspace)
    assert outcome.budget == "max_runs = 3 were started"
    assert sum(run.state is RunState.FINISHED for run in outcome.runs) == 3


@pytest.mark.parametrize("limit", ["device_hours", "wall_clock_hours"])
@pytest.mark.extended
def test_time_runs_out_between_steps_and_what_was_done_is_saved(
    workspace: Workspace, recipe: RecipeWriter, limit: str
) -> None:
    body = f"method = 'ce'\n[grid]\noptimizer.learning_rate = [0.01, 0.05, 0.1]\n[budget]\n{limit} = {{}}\n"
    path = recipe(body.format(1e-9), teacher="")
    outcome = workflows.sweep(path, workspace, gang_size=1)
    assert not outcome.complete
    assert limit in outcome.budget
    assert sum(run.state is RunState.FINISHED for run in outcome.runs) < 3
    again = workflows.sweep(path, workspace, gang_size=1)
    assert limit in again.budget
    assert workflows.sweep(recipe(body.format(10), teacher=""), workspace).complete


@pytest.mark.extended
def test_device_time_is_counted_over_all_starts_and_shared_by_a_gang(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    body = "method = 'ce'\n[grid]\noptimizer.learning_rate = [0.01, 0.05]\n"
    runs = workflows.sweep(recipe(body, teacher=""), workspace).runs
    spent = sum(run.result.train_seconds for run in runs if run.result) / len(runs)
    text = f"{body}[budget]\ndevice_hours = {0.9 * spent / 3600:.12f}\n"
    longer = recipe(text, teacher="", seeds="seeds = [0, 1]")
    assert spent_seconds(workflows.plan_sweep(longer, workspace), workspace) == pytest.approx(spent)
    outcome = workflows.sweep(longer, workspace)
    assert "device_hours" in outcome.budget
    assert [run.state for run in outcome.runs[2:]] == [RunState.PLANNED] * 2


def test_a_teacher_that_was_there_before_costs_a_sweep_nothing_though_it_is_evaluated_later(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    path = recipe("method = 'kd'\n[budget]\ndevice_hours = 1\n")
    workflows.sweep(path, workspace)
    (teacher,) = (m.run_key for m in workspace.store.sweep("tiny").members if m.role == "teacher")
    later = recipe("method = 'kd'\n[budget]\ndevice_hours = 1\n", name="name = 'later'")
    workflows.sweep(later, workspace)
    plan = workflows.plan_sweep(later, workspace)
    assert workspace.store.sweep("later").members == workspace.store.sweep("tiny").members
    before = spent_seconds(plan, workspace)
    evaluation = Evaluation(
        run_key=teacher,
        selection="last",
        split="test",
        metrics=SplitMetrics(top1=50.0, top5=90.0, loss=1.0),
        teacher_agreement=None,
        parameters=1,
        checkpoint_sha256="",
    )
    workspace.store.record_evaluation(evaluation)
    assert spent_seconds(plan, workspace) == before
    assert spent_seconds(workflows.plan_sweep(path, workspace), workspace) > before


def test_a_teacher_that_was_dropped_is_to_be_trained_for_students_who_need_it(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    """As a student of another sweep it may have lost a race."""
    path = recipe("[grid]\nmethod.temperature = [2.0, 4.0]\n" + RACING, method="method = 'kd'", seeds=SEEDS)
    before = workflows.plan_sweep(path, workspace)
    (teacher,) = before.teachers
    workspace.store.add_runs([plan.planned() for plan in (teacher, *before.runs[:2])])
    workspace.store.prune([teacher.key, before.runs[0].key], reason="dropped")
    after = workflows.plan_sweep(path, workspace)
    assert (after.num_dropped, after.num_done) == (1, 0)
    assert [plan.key for plan in after.to_do] == [teacher.key, *(plan.key for plan in before.runs[1:])]


def test_a_single_training_has_no_budget(workspace: Workspace, recipe: RecipeWriter) -> None:
    with pytest.raises(UsageError, match="hold for sweeps") as refusal:
        workflows.train(recipe("[budget]\nmax_runs = 3\n"), workspace)
    assert "kdctl sweep" in refusal.value.hint


def test_trying_a_recipe_out_knows_no_limits(workspace: Workspace, recipe: RecipeWriter) -> None:
    path = recipe(GRID + RACING, teacher="", seeds=SEEDS)
    opened = workflows.open_recipe(path, smoke=True)
    assert not opened.limits.drops
