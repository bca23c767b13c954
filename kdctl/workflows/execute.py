"""Bringing planned runs to their end: teachers first, then gangs, each run claimed before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kdctl.recipe.gangs import DEFAULT_GANG_SIZE, form_gangs
from kdctl.recipe.plan import RunPlan
from kdctl.records import SETTLED, RunState
from kdctl.store.owner import Owner
from kdctl.workflows.failure import Failure
from kdctl.workflows.gang_run import GangTrainer
from kdctl.workflows.journal import FolderJournal, Journal
from kdctl.workflows.progress import Progress, Silent
from kdctl.workflows.readiness import require_ready
from kdctl.workflows.store_journal import LEASE_SECONDS, StoreJournal
from kdctl.workflows.workspace import Workspace

WAIT_SECONDS = 1.0
"""Between two looks at runs that other processes train."""


@dataclass(kw_only=True)
class Executor:
    """Trains plans in this process, one gang after the other."""

    workspace: Workspace
    progress: Progress = field(default_factory=Silent)
    stop: Callable[[], bool] = lambda: False
    gang_size: int = DEFAULT_GANG_SIZE
    retry_failed: bool = False
    owner: Owner = field(default_factory=Owner.here)
    failures: dict[str, Failure] = field(default_factory=dict[str, Failure])
    """What went wrong here, by run key. A run that failed here is not tried again."""

    def complete(self, plans: Sequence[RunPlan], *, later: int = 0) -> None:
        """Train what is not settled yet, teachers first.

        Plans that are known already add nothing. When `stop` says so, the running gang saves its
        state and the rest stays planned.

        Args:
            plans: what to train; their teachers need not be among them.
            later: how many runs the caller will plan when these have ended.

        Raises:
            KdctlError: device or data are missing; then nothing was started.
        """
        teachers = teacher_plans(plans)
        everything = list({plan.key: plan for plan in (*teachers, *plans)}.values())
        to_do = self._open(everything)
        require_ready(to_do, self.workspace)
        self.workspace.store.add_runs([plan.planned() for plan in everything])
        self.progress.planned(to_do, len(everything) - len(to_do), later)
        self._train(teachers)
        self._refuse_untaught(plans)
        self._train(plans)

    def _train(self, plans: Sequence[RunPlan]) -> None:
        elsewhere: list[RunPlan] = []
        for gang in form_gangs(self._open(plans), self.gang_size):
            if self.stop():
                return
            claimed = [plan for plan in gang if self._claim(plan)]
            elsewhere.extend(plan for plan in gang if plan not in claimed)
            if claimed:
                self._train_gang(claimed)
        self._wait_for(elsewhere)

    def _train_gang(self, plans: list[RunPlan]) -> None:
        trainer = GangTrainer(
            bench=self.workspace, journal=self._journal, progress=self.progress, stop=self.stop
        )
        self.failures |= trainer.train(plans)

    @property
    def _journal(self) -> Journal:
        folders = FolderJournal(bench=self.workspace)
        return StoreJournal(folders=folders, store=self.workspace.store, owner=self.owner)

    def _claim(self, plan: RunPlan) -> bool:
        return self.workspace.store.claim(
            plan.key, self.owner, lease_seconds=LEASE_SECONDS, retry_failed=self.retry_failed
        )

    def _fail(self, plan: RunPlan, failure: Failure) -> None:
        self.failures[plan.key] = failure
        self._journal.failed(plan.key, failure)
        self.progress.ended(plan, RunState.FAILED, None, failure.problem)

    def _open(self, plans: Sequence[RunPlan]) -> list[RunPlan]:
        """Return the plans that may be trained, here or elsewhere."""
        closed = SETTLED if self.retry_failed else SETTLED | {RunState.FAILED}
        states = self.workspace.store.states([plan.key for plan in plans])
        return [
            plan for plan in plans if states.get(plan.key) not in closed and plan.key not in self.failures
        ]

    def _refuse_untaught(self, plans: Sequence[RunPlan]) -> None:
        """Fail the runs whose teacher could not be trained."""
        keys = [teacher.run for plan in plans for teacher in plan.teachers if teacher.plan]
        lost = {
            run.key: run
            for run in self.workspace.store.runs(keys=keys)
            if run.state in (RunState.FAILED, RunState.DIVERGED)
        }
        for plan in self._open(plans):
            teacher = next((lost[teacher.run] for teacher in plan.teachers if teacher.run in lost), None)
            if teacher is not None and self._claim(plan):
                problem = f"its teacher, run {teacher.key}, {teacher.state.value}: {teacher.reason}"
                known = self.failures.get(teacher.key)
                hint = known.hint if known else "mend the teacher's training first."
                self._fail(plan, Failure(problem=problem, hint=hint))

    def _wait_for(self, plans: list[RunPlan]) -> None:
        """Wait for runs that other processes hold; take over those they leave."""
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
