"""Students whose teacher is trained by somebody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.errors import Mistake
from kdctl.execution.executor import InProcessConfig, ReleasedRun
from kdctl.execution.scheduler import open_scheduler
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunState
from kdctl.store.leases import LeaseConfig, Owner

RecipeWriter = Callable[..., Path]

ELSEWHERE = Owner(host="elsewhere", pid=1, token="::other")


class Unlucky(Silent):
    """Fails, in the name of another process, the runs that are waited for."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        for plan in plans:
            folder = self._workspace.folder(plan.key)
            folder.write_failure(Mistake(problem="out of luck", hint="try again"))
            folder.let_go(ELSEWHERE)
            self._workspace.store.release(plan.key, ELSEWHERE, state=RunState.FAILED, reason="out of luck")


def test_students_of_a_teacher_that_fails_elsewhere_fail_with_its_reason(
    recipe: RecipeWriter, workspace: Workspace
) -> None:
    plans = workflows.plan_training(recipe("method = 'kd'"), workspace).runs
    teacher = plans[0].teachers[0].plan
    assert teacher is not None
    workspace.store.add_runs([teacher.planned()])
    workspace.store.claim(teacher.key, ELSEWHERE, lease_seconds=600)
    workspace.folder(teacher.key).write_plan(teacher.planned())
    workspace.folder(teacher.key).hold(ELSEWHERE, lease_seconds=600)
    deadline = time.monotonic() + 30
    with open_scheduler(
        workspace, progress=Unlucky(workspace), stop=lambda: time.monotonic() > deadline, retry_failed=True
    ) as scheduler:
        scheduler.complete(plans)
    assert time.monotonic() < deadline
    reasons = {run.reason for run in workspace.store.runs(keys=[plan.key for plan in plans])}
    assert reasons == {f"its teacher, run {teacher.key}, failed: out of luck"}


def test_a_worker_that_died_leaves_no_failure_where_another_process_works_by_now(
    recipe: RecipeWriter, workspace: Workspace
) -> None:
    (plan,) = workflows.plan_training(recipe("method = 'ce'", teacher=""), workspace).runs
    workspace.store.add_runs([plan.planned()])
    folder, dead = workspace.folder(plan.key), Owner(host="here", pid=1, token="::dead")
    folder.write_plan(plan.planned())
    once = InProcessConfig(lease=LeaseConfig(max_crashes=1))
    back = ReleasedRun(plan=plan, owner=dead, reason="its worker was killed by SIGKILL", worker_died=True)
    with open_scheduler(workspace, executor=once) as scheduler:
        workspace.store.claim(plan.key, ELSEWHERE, lease_seconds=600)
        folder.hold(ELSEWHERE, lease_seconds=600)
        assert not scheduler._is_to_go_on(back)
        assert folder.failure() is None
        assert set(workspace.store.states([plan.key]).values()) == {RunState.RUNNING}
        workspace.store.release(plan.key, ELSEWHERE, state=RunState.INTERRUPTED, reason="")
        folder.let_go(ELSEWHERE)
        workspace.store.claim(plan.key, dead, lease_seconds=600)
        folder.hold(dead, lease_seconds=600)
        assert not scheduler._is_to_go_on(back)
        assert folder.failure() is not None
        assert set(workspace.store.states([plan.key]).values()) == {RunState.FAILED}


class Thief(Silent):
    """Takes a run over while it trains, in the name of another process, which then is stopped."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.stolen: set[str] = set()

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        if plan.key in self.stolen:
            return
        self.stolen.add(plan.key)
        store, folder = self._workspace.store, self._workspace.folder(plan.key)
        assert store.claim(plan.key, ELSEWHERE, lease_seconds=600, silent=Owner.here())
        folder.hold(ELSEWHERE, lease_seconds=600)
        folder.let_go(ELSEWHERE)
        assert store.release(plan.key, ELSEWHERE, state=RunState.INTERRUPTED, reason="stopped there")


@pytest.mark.extended
def test_a_run_that_was_taken_over_and_left_again_is_trained_to_its_end(
    recipe: RecipeWriter, workspace: Workspace
) -> None:
    """This process was away for longer than a lease, as that of a laptop that sleeps."""
    plans = workflows.plan_training(recipe("method = 'kd'"), workspace).runs
    thief, deadline = Thief(workspace), time.monotonic() + 60
    impatient = InProcessConfig(lease=LeaseConfig(heartbeat_seconds=0.0))
    with open_scheduler(
        workspace, executor=impatient, progress=thief, stop=lambda: time.monotonic() > deadline
    ) as scheduler:
        scheduler.complete(plans)
    assert len(thief.stolen) == 1 + len(plans)
    assert set(workspace.store.states(thief.stolen).values()) == {RunState.FINISHED}


class Dropping(Silent):
    """Drops, in the name of another sweep, all runs that wait when the first one starts."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.dropped: dict[str, str] = {}

    def started(self, plans: Sequence[RunPlan]) -> None:
        if self.dropped:
            return
        store = self._workspace.store
        waiting = [run.key for run in store.runs(state=RunState.PLANNED)]
        assert store.prune(waiting, reason="dropped after 2 seeds") == len(waiting)
        self.dropped = dict.fromkeys(waiting, "dropped after 2 seeds")


def test_a_run_that_another_sweep_drops_meanwhile_is_trained_here(
    recipe: RecipeWriter, workspace: Workspace
) -> None:
    plans = workflows.plan_training(recipe("method = 'kd'", seeds="seeds = [0, 1]"), workspace).runs
    dropping, deadline = Dropping(workspace), time.monotonic() + 60
    with open_scheduler(
        workspace, progress=dropping, gang_size=1, stop=lambda: time.monotonic() > deadline
    ) as scheduler:
        scheduler.complete(plans)
    assert dropping.dropped.keys() == {plan.key for plan in plans}
    states = workspace.store.states([plan.key for plan in plans])
    assert set(states.values()) == {RunState.FINISHED}
