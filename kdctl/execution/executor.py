"""Executors train gangs: in this process, in local workers or in jobs of a cluster. Results are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from kdctl.assembly.failure import Failure
from kdctl.assembly.run_context import RunContext
from kdctl.engine.ranks import Ranks
from kdctl.execution.claims import is_process_alive
from kdctl.execution.gang_run import GangTrainer
from kdctl.execution.recorders import FolderRecorder, IndexRecorder, StoreRecorder
from kdctl.machine_errors import GOES_ON, MachineError, MachineFault
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState
from kdctl.store.faults import spend_reserve
from kdctl.store.leases import LeaseConfig, Owner


@dataclass(frozen=True, kw_only=True)
class ReleasedRun:
    """A run that its worker holds no longer, ended or not."""

    plan: RunPlan
    owner: Owner
    reason: str
    """What stopped it, if it did not end."""
    worker_died: bool = False
    """Whether its worker died in the middle of its training, of which the run may be the cause."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How much an executor does at once."""

    slots: int
    """Gangs in training, at most."""
    unshared_slots: float
    """How many of them can work without sharing a GPU, or the cores of the CPU, with another one."""
    num_threads: int | None
    """Of torch, for each gang; None: its default."""
    queued: bool = False
    """Whether gangs wait for devices that are not here, in a cluster's queue."""


class Executor(Protocol):
    """Trains gangs, each claimed for one of its workers."""

    @property
    def slots(self) -> int:
        """How many gangs train at once."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a gang is in training."""
        ...

    @property
    def fault(self) -> MachineFault | None:
        """What the machine refused a worker, if all others would meet it too."""
        ...

    def idle_workers(self, wanted: int) -> Sequence[Owner]:
        """Return workers that could train a gang now, at most `wanted`; start some if there are too few."""
        ...

    def train(self, owner: Owner, plans: Sequence[RunPlan], *, until: int | None = None) -> None:
        """Give a gang to an idle worker that holds its runs; they pause after the epoch `until`.

        Raises:
            MachineError: the machine has a fault; the runs are given back.
        """
        ...

    def poll(self, seconds: float) -> list[ReleasedRun]:
        """Wait at most so long for news of the workers; return the runs they released."""
        ...

    def is_alive(self, owner: Owner) -> bool | None:
        """Return whether a worker of any executor is alive; None when that cannot be known."""
        ...

    def stop(self) -> None:
        """Ask all workers to save what they train and to release it."""
        ...


class ExecutorConfig(Protocol):
    """Describes an executor, and starts it."""

    @property
    def lease(self) -> LeaseConfig:
        """How long its workers hold runs without a heartbeat."""
        ...

    def capacity(self, context: RunContext) -> Capacity:
        """Return how much it would do at once."""
        ...

    def require_startable(self) -> None:
        """Raise a KdctlError if it could not be started here, before anything is read or planned for it."""
        ...

    def start(self, recorder: IndexRecorder, stop: Callable[[], bool]) -> AbstractContextManager[Executor]:
        """Return the executor; its workers end with the context."""
        ...


@dataclass(frozen=True, kw_only=True)
class InProcessConfig:
    """One gang after the other, here. What `kdctl train` does, and a sweep with one slot."""

    lease: LeaseConfig = LeaseConfig()
    ranks: Ranks | None = None
    """The processes that train each run together, led by this one; None: this one alone."""

    def capacity(self, context: RunContext) -> Capacity:
        """Return the capacity of one process."""
        return Capacity(slots=1, unshared_slots=1, num_threads=context.num_threads)

    def require_startable(self) -> None:
        """Do nothing: this process has started."""

    @contextmanager
    def start(self, recorder: IndexRecorder, stop: Callable[[], bool]) -> Generator[Executor]:
        """Return this process as the only worker."""
        yield _InProcessExecutor(recorder=recorder, should_stop=stop, owner=Owner.here(), ranks=self.ranks)


@dataclass(kw_only=True)
class _InProcessExecutor:
    recorder: IndexRecorder
    should_stop: Callable[[], bool]
    owner: Owner
    ranks: Ranks | None = None
    slots: int = 1
    fault: MachineFault | None = None
    """Always None: `train` raises it."""
    _left: list[RunPlan] = field(default_factory=list[RunPlan])
    """Runs of the last gang that it gave up, because their leases were lost."""

    @property
    def busy(self) -> bool:
        """Whether there is news; a gang trains within `train`."""
        return bool(self._left)

    def idle_workers(self, wanted: int) -> Sequence[Owner]:
        return (self.owner,)[:wanted]

    def train(self, owner: Owner, plans: Sequence[RunPlan], *, until: int | None = None) -> None:
        workspace, lease = self.recorder.workspace, self.recorder.lease
        folders = FolderRecorder(context=workspace, owner=owner, lease=lease)
        trainer = GangTrainer(
            context=workspace,
            recorder=StoreRecorder(folders=folders, store=workspace.store),
            progress=self.recorder.progress,
            stop=self.should_stop,
            until=until,
            heartbeat_seconds=lease.heartbeat_seconds,
            on_failure=self._make_room,
            ranks=self.ranks,
        )
        self.recorder.failures.update(trainer.train(plans))
        states = workspace.store.states([plan.key for plan in plans])
        left = [plan for plan in plans if self._is_lost(plan.key, states.get(plan.key), until)]
        if left and self.ranks is not None:  # whoever was told to stop would stop again at the next step
            problem = f"another of the {self.ranks.count} processes that train this run was told to stop; "
            raise MachineError(MachineFault(problem=f"{problem}its state is saved.", hint=GOES_ON))
        self._left = left

    def poll(self, seconds: float) -> list[ReleasedRun]:
        if not self._left:
            time.sleep(seconds)  # `train` came back when everything was done: others are waited for
        left, self._left = self._left, []
        return [ReleasedRun(plan=plan, owner=self.owner, reason="its lease was lost") for plan in left]

    def is_alive(self, owner: Owner) -> bool | None:
        return is_process_alive(owner)

    def stop(self) -> None:
        """Do nothing: while a gang trains, the trainer itself asks whether to stop."""

    def _is_lost(self, key: str, state: RunState | None, until: int | None) -> bool:
        """Return whether another process took a run over, which it may have left by now."""
        if state is RunState.INTERRUPTED:
            return not (self.should_stop() or self.recorder.workspace.folder(key).is_past(until))
        return state is RunState.RUNNING

    def _make_room(self, failure: Failure) -> None:
        if failure.fault is not None:
            spend_reserve(self.recorder.workspace.runs)
