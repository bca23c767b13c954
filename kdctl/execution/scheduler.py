"""Bringing planned runs to their end: teachers first, then gangs, each run claimed before it starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from kdctl.assembly.failure import Failure
from kdctl.assembly.progress import Progress, Silent
from kdctl.assembly.readiness import require_ready
from kdctl.assembly.workspace import Workspace
from kdctl.errors import AbortedError
from kdctl.execution.claims import Claims
from kdctl.execution.executor import Executor, ExecutorConfig, InProcessConfig, ReleasedRun
from kdctl.execution.gang_schedule import gangs_apart, gangs_of
from kdctl.execution.recorders import ABORTED, IndexRecorder
from kdctl.execution.worker_state import CrashCounter
from kdctl.machine_errors import MachineError, as_machine_errors
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE
from kdctl.recipe.plan import RunPlan
from kdctl.records import ENDED, RunState, StoredRun
from kdctl.store.faults import keep_reserve, spend_reserve
from kdctl.store.leases import Owner

WAIT_SECONDS = 1.0
"""Between two looks at runs that other processes train."""

LISTEN_SECONDS = 0.2
"""How long one wait for news of the executor lasts; after each of them `stop` is asked."""


@dataclass(kw_only=True)
class Scheduler:
    """Hands gangs of planned runs to an executor, and sees to it that each run comes to its end."""

    workspace: Workspace
    executor: Executor
    recorder: IndexRecorder
    claims: Claims
    stop: Callable[[], bool]
    gang_size: int
    retry_failed: bool
    crashes: CrashCounter
    _queue: list[list[RunPlan]] = field(default_factory=list[list[RunPlan]])
    """Gangs that nobody trains yet."""
    _elsewhere: dict[str, RunPlan] = field(default_factory=dict[str, RunPlan])
    """Runs that another process holds, or has ended meanwhile."""
    _until: int | None = None
    """The epoch after which runs are to pause; None: they train to their end."""
    _pausing: set[str] = field(default_factory=set[str])
    """Runs for which that holds."""
    _taught: set[str] = field(default_factory=set[str])
    """Teachers that are known to be settled."""

    @property
    def failures(self) -> dict[str, Failure]:
        """What went wrong here, by run key. A run that failed here is not tried again."""
        return self.recorder.failures

    def complete(self, plans: Sequence[RunPlan], *, later: int = 0, until: int | None = None) -> None:
        """Train what is not settled yet, teachers first.

        Plans that are known already add nothing. When `stop` says so, the gangs in training save
        their state and the rest stays planned.

        Args:
            plans: what to train; their teachers need not be among them.
            later: how many runs the caller will plan when these have ended.
            until: the epoch after which they pause, wherever they are trained; teachers train to their end.

        Raises:
            KdctlError: device or data are missing; then nothing was started.
            MachineError: a disk is full, or data are gone; everything is saved, and runs are given back.
        """
        teachers = teacher_plans(plans)
        everything = list({plan.key: plan for plan in (*teachers, *plans)}.values())
        self._until = until
        self._pausing = {plan.key for plan in plans} - {plan.key for plan in teachers} if until else set()
        for plan in self._unfinished(everything):
            self.claims.reconcile(plan.key)
        to_do = self._unfinished(everything)
        require_ready(to_do, self.workspace)
        self.workspace.store.add_runs([plan.planned() for plan in to_do])
        self.recorder.progress.planned(to_do, len(everything) - len(to_do), later)
        first, then = self._unfinished(teachers), self._unfinished(plans)
        self._queue = gangs_of(
            first, then, gang_size=self.gang_size, slots=self.executor.slots, pausing=self._pausing
        )
        self._elsewhere = {}
        keep_reserve(self.workspace.runs)
        self._work()

    def _work(self) -> None:
        """Hand out gangs until all have ended; when the machine fails, end in good order."""
        try:
            with as_machine_errors():
                self._hand_out_all()
        except MachineError:
            spend_reserve(self.workspace.runs)
            self.executor.stop()
            while self.executor.busy:
                with contextlib.suppress(MachineError), as_machine_errors():
                    self._listen(LISTEN_SECONDS)
            raise

    def _hand_out_all(self) -> None:
        """Hand out gangs until all have ended, or until it is time to stop."""
        last_look, is_waiting_told = 0.0, False
        while not self.stop() and (self._queue or self._elsewhere or self.executor.busy):
            if self._hand_out() and not self.executor.busy:
                continue
            if self._elsewhere and not is_waiting_told and not self.executor.busy:
                is_waiting_told = True
                self.recorder.progress.waiting(list(self._elsewhere.values()))
            self._listen(LISTEN_SECONDS)
            if self._elsewhere and time.monotonic() - last_look > WAIT_SECONDS:
                self._look_elsewhere()
                last_look = time.monotonic()
        if self.executor.busy:  # it is time to stop
            self.executor.stop()
        while self.executor.busy:
            self._listen(LISTEN_SECONDS)

    def _hand_out(self) -> bool:
        """Give gangs to workers that are idle; return whether any was given."""
        given = False
        for owner in self.executor.idle_workers(len(self._queue)) if self._queue else ():
            gang = [] if self.stop() else self._claimed_gang(owner)
            if not gang:
                break
            pauses = gang[0].key in self._pausing
            self.executor.train(owner, gang, until=self._until if pauses else None)
            given = True
        return given

    def _claimed_gang(self, owner: Owner) -> list[RunPlan]:
        """Return the next gang that has its teachers, as far as it could be claimed; empty: there is none."""
        place = 0
        while place < len(self._queue):
            gang = self._queue[place]
            if not self._has_teachers(gang):
                place += 1
                continue
            del self._queue[place]
            wanted = self._unfinished(gang)
            try:
                claimed = [plan for plan in wanted if self._claim(plan, owner)]
            except MachineError as error:
                spend_reserve(self.workspace.runs)
                self._give_back(wanted, owner, error.problem)
                raise
            except (KeyboardInterrupt, AbortedError):
                self._give_back(wanted, owner, ABORTED)
                raise
            self._elsewhere |= {plan.key: plan for plan in wanted if plan not in claimed}
            if claimed:
                return claimed
        return []

    def _give_back(self, plans: Sequence[RunPlan], owner: Owner, reason: str) -> None:
        """Close what `owner` holds of these runs, as far as a faulty machine lets us."""
        for plan in plans:
            with contextlib.suppress(MachineError), as_machine_errors():
                self.recorder.close(plan, owner, reason)

    def _listen(self, seconds: float) -> None:
        """Wait for news of the executor; put runs that came back before their end into the queue again."""
        returned = self.executor.poll(seconds)
        again = [back.plan for back in returned if self._is_to_go_on(back)]
        alone = [[plan] for plan in again if self.crashes.is_suspect(plan.key)]
        together = [plan for plan in again if not self.crashes.is_suspect(plan.key)]
        self._queue = [*self._gangs(together, self.gang_size), *alone, *self._queue]
        if self.executor.fault is not None:
            raise MachineError(self.executor.fault)

    def _is_to_go_on(self, back: ReleasedRun) -> bool:
        """Record where a run stands that a worker gave back; return whether it is to be queued again."""
        plan, folder = back.plan, self.workspace.folder(back.plan.key)
        lease = folder.lease()  # perhaps already that of another process
        is_left = lease is None or lease.owner == back.owner
        if back.worker_died and is_left and folder.result() is None:
            verdict = self.crashes.count(plan.key, back.reason, reached=len(folder.epochs()))
            if verdict is not None:
                folder.write_failure(verdict.mistake())
        state = self.recorder.close(plan, back.owner, back.reason)
        if state is RunState.RUNNING:
            self._elsewhere[plan.key] = plan
        if state is not RunState.INTERRUPTED:
            return False
        if plan.key in self._pausing:
            self.claims.reconcile(plan.key)  # its worker may have had no time to tell of its last epoch
        return bool(self._unfinished([plan]))

    def _look_elsewhere(self) -> None:
        """Look at the runs that other processes hold; queue those that they have given up."""
        waiting = self._unfinished(self._elsewhere.values())
        self._elsewhere = {}
        free: list[RunPlan] = []
        for plan in waiting:
            state = self.claims.reconcile_if_left(plan.key)
            if state is not None and state in ENDED | {RunState.FAILED}:
                continue
            if self.claims.is_free(plan.key):
                free.append(plan)
            else:
                self._elsewhere[plan.key] = plan
        self._queue.extend(self._gangs(free, self.gang_size))

    def _gangs(self, plans: Sequence[RunPlan], size: int) -> list[list[RunPlan]]:
        return gangs_apart(plans, size, self._pausing)

    def _claim(self, plan: RunPlan, owner: Owner) -> bool:
        self.workspace.store.revive([plan.key])  # another sweep may have dropped it
        return self.claims.take(plan.key, owner, retry_failed=self.retry_failed)

    def _unfinished(self, plans: Iterable[RunPlan]) -> list[RunPlan]:
        """Return the plans that are still to be trained, by us or by another process."""
        known = list(plans)
        closed = ENDED if self.retry_failed else ENDED | {RunState.FAILED}
        states = self.workspace.store.states([plan.key for plan in known])
        through = {key for key, state in states.items() if state in closed} | self.failures.keys()
        if self._until:
            through |= self.workspace.store.past(self._pausing, self._until)
        return [plan for plan in known if plan.key not in through]

    def _has_teachers(self, gang: Sequence[RunPlan]) -> bool:
        """Return whether the teachers of a gang are trained; a gang whose teacher is lost fails."""
        needed = {teacher.run for teacher in gang[0].teachers if teacher.plan} - self._taught
        if not needed:
            return True
        for run in self.workspace.store.runs(keys=needed):
            if run.state is RunState.FINISHED:
                self._taught.add(run.key)
            elif self._is_lost(run):
                problem = f"its teacher, run {run.key}, {run.state.value}: {run.reason}"
                known = self.failures.get(run.key)
                hint = known.hint if known else "mend the teacher's training first."
                self._refuse(gang, Failure(problem=problem, hint=hint))
                return True  # it leaves the queue: its runs have failed, so none of them can be claimed
        return needed <= self._taught

    def _is_lost(self, run: StoredRun) -> bool:
        """Return whether a teacher that is not finished will not teach."""
        if run.state is RunState.FAILED and self.retry_failed and run.key not in self.failures:
            queued = {plan.key for gang in self._queue for plan in gang}
            return run.key not in queued | self._elsewhere.keys()  # then it has failed elsewhere meanwhile
        return run.state in {RunState.DIVERGED, RunState.FAILED}

    def _refuse(self, gang: Sequence[RunPlan], failure: Failure) -> None:
        owner = Owner.here()
        for plan in gang:
            if self._claim(plan, owner):
                self.workspace.folder(plan.key).write_failure(failure.mistake())
                self.recorder.close(plan, owner, failure.problem)


@contextmanager
def open_scheduler(
    workspace: Workspace,
    *,
    executor: ExecutorConfig | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    gang_size: int = DEFAULT_GANG_SIZE,
    retry_failed: bool = False,
) -> Generator[Scheduler]:
    """Return a scheduler; the workers of its executor end with it."""
    config = executor or InProcessConfig()
    recorder = IndexRecorder(workspace=workspace, progress=progress or Silent(), lease=config.lease)
    try:
        with config.start(recorder, stop) as started:
            yield Scheduler(
                workspace=workspace,
                executor=started,
                recorder=recorder,
                claims=Claims(workspace=workspace, lease=config.lease, is_alive=started.is_alive),
                stop=stop,
                gang_size=gang_size,
                retry_failed=retry_failed,
                crashes=CrashCounter(max_crashes=config.lease.max_crashes),
            )
    finally:
        spend_reserve(workspace.runs)


def teacher_plans(plans: Iterable[RunPlan]) -> list[RunPlan]:
    """Return the plans of all teachers that are given by architecture, each once."""
    found: dict[str, RunPlan] = {}
    for plan in plans:
        for teacher in plan.teachers:
            if teacher.plan is not None:
                found.setdefault(teacher.plan.key, teacher.plan)
    return list(found.values())
