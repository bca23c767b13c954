"""Worker processes on this machine: one for each GPU, or for each share of the CPU."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from kdctl.assembly.run_context import RunContext
from kdctl.errors import KdctlError
from kdctl.execution.claims import is_process_alive
from kdctl.execution.executor import Capacity, Executor, ReleasedRun
from kdctl.execution.messages import Event, EventKind, WorkerSetup
from kdctl.execution.recorders import ABORTED, IndexRecorder
from kdctl.execution.worker_process import WorkerProcess, saved
from kdctl.machine_errors import MachineError, MachineFault, as_machine_errors
from kdctl.plugins import loaded_plugin_files
from kdctl.recipe.plan import RunPlan
from kdctl.store.leases import LeaseConfig, Owner

START_SECONDS = 300.0
"""How long a worker may take to start, or to build a gang, before it is killed."""

MOST_FALSE_STARTS = 3
"""After so many workers in a row that ended before they were ready, no more are started."""


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Several gangs at once, each in a process of its own, so that no crash takes the sweep down."""

    slots: int
    lease: LeaseConfig = LeaseConfig()

    def capacity(self, context: RunContext) -> Capacity:
        """Return that of the GPUs that the workers will have, or of the cores that their threads will."""
        setups = _setups(context, self.slots, self.lease)
        if setups[0].device.startswith("cuda:"):
            alone = len({setup.device for setup in setups})
        else:
            alone = min(self.slots, max(_num_cores() / (setups[0].num_threads or 1), 1))
        return Capacity(slots=self.slots, unshared_slots=alone, num_threads=setups[0].num_threads)

    def require_startable(self) -> None:
        """Do nothing: processes can always be tried."""

    @contextmanager
    def start(self, recorder: IndexRecorder, stop: Callable[[], bool]) -> Generator[Executor]:
        """Return the executor. Its workers start when there is something to do, and none outlives it."""
        del stop  # the scheduler tells the executor
        setups = _setups(recorder.workspace, self.slots, self.lease)
        executor = LocalExecutor(recorder=recorder, setups=setups)
        try:
            yield executor
        finally:
            executor.kill()


@dataclass(kw_only=True)
class LocalExecutor:
    """The workers of this machine."""

    recorder: IndexRecorder
    setups: Sequence[WorkerSetup]
    """One for each slot."""
    _workers: dict[int, WorkerProcess] = field(default_factory=dict[int, WorkerProcess])
    """By slot."""
    _events: queue.SimpleQueue[tuple[WorkerProcess, Event | None]] = field(
        default_factory=queue.SimpleQueue[tuple[WorkerProcess, Event | None]]
    )
    """What the workers said; None when one has ended."""
    _renewed: float = field(default_factory=time.monotonic)
    _watched: float = field(default_factory=time.monotonic)
    """When this process last looked whether a worker is silent."""
    _false_starts: int = 0
    fault: MachineFault | None = None
    """What the machine refused one of them."""

    @property
    def slots(self) -> int:
        """How many gangs train at once."""
        return len(self.setups)

    @property
    def busy(self) -> bool:
        """Whether a gang is in training."""
        return any(worker.plans for worker in self._workers.values())

    def idle_workers(self, wanted: int) -> Sequence[Owner]:
        """Return workers that are ready and have nothing to do; start others if these are too few."""
        coming = [worker for worker in self._workers.values() if not worker.plans]
        empty = [slot for slot in range(self.slots) if slot not in self._workers]
        for slot in empty[: max(wanted - len(coming), 0)]:
            self._workers[slot] = WorkerProcess(self.setups[slot], self.recorder, self._events)
        return [worker.owner for worker in coming if worker.owner is not None and worker.is_idle][:wanted]

    def train(self, owner: Owner, plans: Sequence[RunPlan], *, until: int | None = None) -> None:
        """Send a gang to a worker."""
        worker = next(worker for worker in self._workers.values() if worker.owner == owner)
        worker.train(plans, until=until)

    def poll(self, seconds: float) -> list[ReleasedRun]:
        """Read the events of the workers; renew the leases of those that live, kill those that are silent."""
        returned: list[ReleasedRun] = []
        try:
            returned += self._handle(*self._events.get(timeout=seconds))
            while True:
                returned += self._handle(*self._events.get_nowait())
        except queue.Empty:
            self._watch()
        return returned

    def is_alive(self, owner: Owner) -> bool | None:
        """Return whether a process lives; None when it is on another host."""
        return is_process_alive(owner)

    def stop(self) -> None:
        """Ask all workers to save what they train and to leave."""
        for worker in self._workers.values():
            worker.stop()

    def kill(self) -> None:
        """End all workers at once, and give back what they still trained."""
        for worker in self._workers.values():
            worker.kill()
            worker.reap()
            for back in worker.release_all(ABORTED):
                with contextlib.suppress(MachineError), as_machine_errors():
                    self.recorder.close(back.plan, back.owner, back.reason)
        self._workers.clear()

    def _handle(self, worker: WorkerProcess, event: Event | None) -> list[ReleasedRun]:
        if event is None:
            return self._reaped(worker)
        ended = worker.handle_event(event)
        self.fault = self.fault or worker.fault
        if event.kind is EventKind.READY:
            worker.owner, worker.is_idle, self._false_starts = event.owner, True, 0
        if event.kind is EventKind.IDLE:
            worker.is_idle = True
            return worker.release_all("its worker left it out")
        return [worker.release(key, event.text) for key in ended]

    def _reaped(self, worker: WorkerProcess) -> list[ReleasedRun]:
        """Give back what a worker trained that has ended, and free its slot.

        Raises:
            KdctlError: workers end as soon as they start.
        """
        if worker not in self._workers.values():
            return []
        self._workers = {slot: other for slot, other in self._workers.items() if other is not worker}
        code = worker.reap()
        if worker.owner is None and not saved(code):
            self._false_starts += 1
            if self._false_starts >= MOST_FALSE_STARTS:
                raise KdctlError(
                    f"workers end before they are ready: {worker.last_line or worker.exit_reason}.",
                    "mend that, or sweep in one process with --slots 1.",
                )
        return worker.release_all(worker.exit_reason, worker_died=worker.started and not saved(code))

    def _watch(self) -> None:
        """Renew the leases of workers that speak; kill those that have been silent for a whole lease."""
        now, lease = time.monotonic(), self.recorder.lease
        away = now - self._watched  # this process may have been stopped (Ctrl-Z), and read no events
        self._watched = now
        for worker in self._workers.values():
            if away > lease.heartbeat_seconds:
                worker.forgive(away)
            if worker.has_ended():  # its pipe says so, unless a child of it keeps that open
                self._events.put((worker, None))
            silence = worker.silence(now, patience=lease.seconds, start_patience=START_SECONDS)
            if (worker.plans or not worker.owner) and silence is not None:
                worker.kill(f"it was silent for {silence:.0f} s")
        if now - self._renewed > lease.heartbeat_seconds:
            self._renewed = now
            for worker in self._workers.values():
                if worker.owner is not None:
                    self.recorder.renew(list(worker.plans), worker.owner)


def _num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _setups(context: RunContext, slots: int, lease: LeaseConfig) -> list[WorkerSetup]:
    """Divide GPUs, or the threads of the CPU, among slots."""
    setup = WorkerSetup.of(context, plugins=loaded_plugin_files(), lease=lease)
    num_gpus = torch.cuda.device_count() if context.device in ("auto", "cuda") else 0
    if num_gpus:
        return [replace(setup, device=f"cuda:{slot % num_gpus}") for slot in range(slots)]
    threads = context.num_threads or max(torch.get_num_threads() // slots, 1)
    return [replace(setup, num_threads=threads)] * slots
