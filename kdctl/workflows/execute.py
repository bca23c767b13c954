"""Bringing planned runs to their end: teachers first, then gangs, each run claimed before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kdctl.errors import KdctlError
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE, form_gangs
from kdctl.recipe.plan import RunPlan
from kdctl.records import SETTLED, RunState
from kdctl.store.store import Owner
from kdctl.workflows.data import DataLibrary
from kdctl.workflows.gang_run import LEASE_SECONDS, GangRun
from kdctl.workflows.progress import Progress, Silent
from kdctl.workflows.workspace import Workspace

WAIT_SECONDS = 2.0
"""Between two looks at runs that other processes train."""


@dataclass(kw_only=True)
class Executor:
    """Trains plans in this process, one gang after the other."""

    workspace: Workspace
    library: DataLibrary
    progress: Progress = field(default_factory=Silent)
    stop: Callable[[], bool] = lambda: False
    gang_size: int = DEFAULT_GANG_SIZE
    retry_failed: bool = False
    owner: Owner = field(default_factory=Owner.here)

    def complete(self, plans: Sequence[RunPlan]) -> dict[str, RunState]:
        """Train what is not settled yet, teachers first, and return the state of every run by key.

        Plans that are known already add nothing. When `stop` says so, the running gang saves its
        state and the rest stays planned.
        """
        teachers = teacher_plans(plans)
        everything = [*teachers, *plans]
        store = self.workspace.store
        store.add_runs([plan.planned() for plan in everything])
        states = store.states([plan.key for plan in everything])
        to_do = [plan for plan in everything if states[plan.key] not in SETTLED]
        self.progress.planned(to_do, len(everything) - len(to_do))
        self._train(teachers)
        self._refuse_untaught(plans)
        self._train(plans)
        return store.states([plan.key for plan in everything])

    def _train(self, plans: Sequence[RunPlan]) -> None:
        elsewhere: list[RunPlan] = []
        for gang in form_gangs(self._open(plans), self.gang_size):
            if self.stop():
                return
            claimed = [plan for plan in gang if self._claim(plan)]
            elsewhere.extend(plan for plan in gang if plan not in claimed)
            self._train_gang(claimed)
        self._wait_for(elsewhere)

    def _train_gang(self, plans: list[RunPlan]) -> None:
        if not plans:
            return
        failed = GangRun(
            workspace=self.workspace,
            library=self.library,
            progress=self.progress,
            stop=self.stop,
            owner=self.owner,
            plans=plans,
        ).run()
        if failed is None:
            return
        if len(plans) == 1:
            self._fail(plans[0], failed)
            return
        for plan in plans:  # one bad member must not fail the others: each gets a gang of its own
            self._train_gang([plan])

    def _claim(self, plan: RunPlan) -> bool:
        return self.workspace.store.claim(
            plan.key, self.owner, lease_seconds=LEASE_SECONDS, retry_failed=self.retry_failed
        )

    def _fail(self, plan: RunPlan, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        self.workspace.store.release(plan.key, self.owner, state=RunState.FAILED, reason=reason)
        self.progress.ended(plan, RunState.FAILED, None, reason)

    def _open(self, plans: Sequence[RunPlan]) -> list[RunPlan]:
        closed = SETTLED if self.retry_failed else SETTLED | {RunState.FAILED}
        states = self.workspace.store.states([plan.key for plan in plans])
        return [plan for plan in plans if states[plan.key] not in closed]

    def _refuse_untaught(self, plans: Sequence[RunPlan]) -> None:
        """Fail the runs whose teacher could not be trained."""
        keys = [teacher.run for plan in plans for teacher in plan.teachers if teacher.plan]
        states = self.workspace.store.states(keys)
        hopeless = {RunState.FAILED, RunState.DIVERGED}
        for plan in self._open(plans):
            bad = [t.run for t in plan.teachers if t.plan and states[t.run] in hopeless]
            if bad and self._claim(plan):
                problem = f"its teacher, run {bad[0]}, {states[bad[0]].value}"
                self._fail(plan, KdctlError(problem, "mend the teacher's training first."))

    def _wait_for(self, plans: list[RunPlan]) -> None:
        """Wait for runs that other processes hold; take over those whose lease runs out."""
        told = False
        while (waiting := self._open(plans)) and not self.stop():
            if not told:
                self.progress.waiting(waiting)
                told = True
            time.sleep(WAIT_SECONDS)
            for plan in waiting:
                if self._claim(plan):
                    self._train_gang([plan])


def teacher_plans(plans: Iterable[RunPlan]) -> list[RunPlan]:
    """Return the plans of all teachers that are given by architecture, each once."""
    found: dict[str, RunPlan] = {}
    for plan in plans:
        for teacher in plan.teachers:
            if teacher.plan is not None:
                found.setdefault(teacher.plan.key, teacher.plan)
    return list(found.values())
