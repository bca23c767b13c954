"""Runs that pause after an epoch, whoever trains them: the same bits as runs that do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.catalog import open_recipe
from kdctl.assembly.planning import Planner
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.execution.executor import ExecutorConfig, InProcessConfig
from kdctl.execution.local_executor import LocalConfig
from kdctl.execution.messages import Order
from kdctl.execution.scheduler import open_scheduler
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunResult, RunState
from kdctl.serialization import to_tree
from kdctl.store.json_files import from_json, to_json

RecipeWriter = Callable[..., Path]

GRID = "[grid]\noptimizer.learning_rate = [0.05, 0.1]\n"
FOUR_EPOCHS = "schedule = {name = 'cosine', epochs = 4}"


class Seen(Silent):
    """Counts epochs, and remembers how runs ended."""

    def __init__(self) -> None:
        self.epochs: list[tuple[str, int]] = []
        self.ends: list[tuple[RunState, str]] = []

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        self.epochs.append((plan.key, result.epoch))

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        self.ends.append((state, reason))


def planned(path: Path, workspace: Workspace) -> tuple[RunPlan, ...]:
    recipe = open_recipe(path)
    return Planner(recipe, workspace).runs(recipe.points)


def curve(workspace: Workspace, key: str) -> list[dict[str, object]]:
    """Return the epochs of a run without their times."""
    trees = [to_tree(epoch) for epoch in workspace.store.epochs(key)]
    return [
        {name: value for name, value in tree.items() if "second" not in name and name != "ended"}
        for tree in trees
    ]


@pytest.mark.parametrize(
    "executor",
    [
        pytest.param(InProcessConfig(), id="here"),
        pytest.param(LocalConfig(slots=2), id="workers", marks=pytest.mark.slow),
    ],
)
@pytest.mark.extended
def test_runs_pause_after_an_epoch_and_go_on_as_if_they_had_not(
    workspace: Workspace, undisturbed: Workspace, recipe: RecipeWriter, executor: ExecutorConfig
) -> None:
    path = recipe(GRID, method="method = 'kd'", schedule=FOUR_EPOCHS)
    workflows.sweep(path, undisturbed)
    plans, seen = planned(path, workspace), Seen()
    keys, teacher = [plan.key for plan in plans], plans[0].teachers[0].run
    for until in (1, 3, 3):  # the last time there is nothing to do
        with open_scheduler(workspace, executor=executor, progress=seen) as scheduler:
            scheduler.complete(plans, until=until)
        assert workspace.store.past(keys, until) == set(keys)
        told = f"paused after epoch {until} until it is decided which runs go on"
        assert [run.reason for run in workspace.store.runs(keys=keys)] == [told] * 2
        assert set(workspace.store.states(keys).values()) == {RunState.INTERRUPTED}
        assert set(workspace.store.states([teacher]).values()) == {RunState.FINISHED}
    with open_scheduler(workspace, executor=executor, progress=seen) as scheduler:
        scheduler.complete(plans)
    assert sorted(seen.epochs) == sorted((key, epoch) for key in (teacher, *keys) for epoch in range(1, 5))
    for run in workspace.store.runs(keys=keys):
        assert (run.state, run.attempts) == (RunState.FINISHED, 3)
        assert curve(workspace, run.key) == curve(undisturbed, run.key)
        for name in ("last.pt", "best-test.pt"):
            ours, theirs = workspace.folder(run.key), undisturbed.folder(run.key)
            assert ours.artifact(name) == theirs.artifact(name)


def test_where_a_run_pauses_is_no_part_of_what_it_is(workspace: Workspace, recipe: RecipeWriter) -> None:
    plans = planned(recipe(method="method = 'ce'", teacher=""), workspace)
    order = from_json(Order, to_json(Order.of(plans, until=3)))
    assert order.until == 3
    assert order.runs == Order.of(plans).runs
    old = to_json(Order.of(plans)).replace('"until":null,', "").replace(',"until":null', "")
    assert "until" not in old
    assert from_json(Order, old).until is None  # a job that an earlier version put into the queue


def test_a_teacher_that_a_sweep_has_dropped_is_trained_for_the_students_who_need_it(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    plans = planned(recipe(method="method = 'kd'"), workspace)
    teacher = plans[0].teachers[0].plan
    assert teacher is not None
    workspace.store.add_runs([teacher.planned()])
    workspace.store.prune([teacher.key], reason="dropped")
    workspace.folder(teacher.key).write_dropped(teacher.planned(), "dropped")
    deadline = time.monotonic() + 60
    with open_scheduler(workspace, stop=lambda: time.monotonic() > deadline) as scheduler:
        scheduler.complete(plans)
    states = workspace.store.states([teacher.key, *(plan.key for plan in plans)])
    assert set(states.values()) == {RunState.FINISHED}
