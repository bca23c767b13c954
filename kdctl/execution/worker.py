"""A worker: trains the gangs that a scheduler sends, and writes run folders. It has no database.

    python -m kdctl.execution.worker

The first line on standard input is a `WorkerSetup`, every other one an `Order`; events go to standard
output. When standard input ends, the scheduler wants no more work done, or is gone: the worker saves
what it trains, lets go of it and leaves, as it does at SIGTERM.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.failure import Failure
from kdctl.engine.ranks import Ranks
from kdctl.errors import KdctlError
from kdctl.execution.gang_run import GangTrainer
from kdctl.execution.messages import Event, EventKind, Order, WorkerSetup
from kdctl.execution.recorders import FolderRecorder
from kdctl.machine_errors import MachineError, MachineFault, as_machine_errors
from kdctl.plugins import load_plugin_file
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunResult, RunState
from kdctl.store.json_files import from_json, to_json
from kdctl.store.leases import Owner

SAVED = 143
"""Exit code of a worker that was asked to leave."""

DEVICE_LOST = 70
"""Exit code of a worker whose device failed."""

STEP_SECONDS = 0.2
"""At most so often a worker tells where its runs stand."""

MAX_PENDING_EVENTS = 1000
"""While more events than these wait to be sent, positions of steps are left out."""


class EventSender:
    """Sends events to the scheduler, in a thread of its own.

    A pipe that nobody reads fills up, and then a write waits: that must not hold up the training.
    """

    def __init__(self, stream: IO[str], *, heartbeat_seconds: float | None = None) -> None:
        """Write lines to `stream`.

        Args:
            stream: what the scheduler reads.
            heartbeat_seconds: after so long without an event, say that the process runs; None: never.
        """
        self._stream, self._heartbeat_seconds = stream, heartbeat_seconds
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Hand in an event; it is sent soon. Positions of steps are left out while too many wait."""
        if event.kind is not EventKind.STEPPED or self._events.qsize() < MAX_PENDING_EVENTS:
            self._events.put(event)

    def finish(self, seconds: float = 5.0) -> None:
        """Wait until everything is sent, at most so many seconds: what is lost stands in the run folders."""
        self._events.put(None)
        self._thread.join(seconds)

    def _next(self) -> Event | None:
        try:
            return self._events.get(timeout=self._heartbeat_seconds)
        except queue.Empty:
            return Event(kind=EventKind.ALIVE)

    def _send_all(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._stream.write(to_json(event) + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # nobody listens any more
                return


@dataclass(kw_only=True)
class ForwardedProgress:
    """Sends the progress of a worker's runs to the scheduler."""

    sender: EventSender
    _last: float = 0.0
    _positions: dict[str, float] = field(default_factory=dict[str, float])

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None:
        """Do nothing: the scheduler planned."""

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Send which runs train together."""
        self._positions.clear()
        self.sender.send(Event(kind=EventKind.STARTED, keys=tuple(plan.key for plan in plans)))

    def stepped(self, key: str, position: float) -> None:
        """Send where the runs stand, a few times a second at most."""
        self._positions[key] = position
        if time.monotonic() - self._last > STEP_SECONDS:
            self._last = time.monotonic()
            self.sender.send(Event(kind=EventKind.STEPPED, positions=dict(self._positions)))

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Send an epoch's numbers."""
        self.sender.send(Event(kind=EventKind.EPOCH, keys=(plan.key,), result=result))

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Send that this worker trains the run no longer."""
        del state, result  # the folder holds them
        self._positions.pop(plan.key, None)
        self.sender.send(Event(kind=EventKind.ENDED, keys=(plan.key,), text=reason))

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Do nothing: a worker does not wait."""


class LogForwarder(logging.Handler):
    """Sends warnings that kdctl logs to the scheduler, which shows them."""

    def __init__(self, sender: EventSender) -> None:
        """Take records from the level of warnings on."""
        super().__init__(logging.WARNING)
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        self._sender.send(Event(kind=EventKind.NOTE, text=record.getMessage()))


@dataclass(kw_only=True)
class Worker:
    """Trains one gang after the other, in folders that name `owner` as their holder."""

    setup: WorkerSetup
    owner: Owner
    sender: EventSender
    stop: Callable[[], bool]
    rejoins: bool = False
    """Whether its runs are still its own after it let go of them: a job that was put back into the queue."""
    ranks: Ranks | None = None
    """The processes that train each run together, led by this one; None: this one alone."""

    def __post_init__(self) -> None:
        """Load plug-ins, and keep data sets from one gang to the next."""
        for path in self.setup.plugins:
            load_plugin_file(Path(path))
        self._catalog = full_catalog()
        self._context = self.setup.context()
        self._recorder = FolderRecorder(context=self._context, owner=self.owner, lease=self.setup.lease)
        self._progress = ForwardedProgress(sender=self.sender)

    def train(self, order: Order) -> None:
        """Train those runs of a gang that are still ours and have not ended before.

        Raises:
            MachineError: the machine has a fault; that is told, and the runs are given back.
        """
        try:
            with as_machine_errors():
                wanted = (self._plan_to_train(run.key, run.read, order.until) for run in order.runs)
                plans = [plan for plan in wanted if plan is not None]
        except MachineError as error:
            self._send_fault(error.fault)
            raise
        if plans:
            trainer = GangTrainer(
                context=self._context,
                recorder=self._recorder,
                progress=self._progress,
                stop=self.stop,
                until=order.until,
                heartbeat_seconds=self.setup.lease.heartbeat_seconds,
                on_failure=self._report_failure,
                ranks=self.ranks,
            )
            trainer.train(plans)
        self.sender.send(Event(kind=EventKind.IDLE))

    def _plan_to_train(self, key: str, read: Callable[..., RunPlan], until: int | None) -> RunPlan | None:
        """Return a run's plan; None if another process holds the run, it has ended, or it cannot be read."""
        folder = self._context.folder(key)
        is_ours = self._recorder.renew([key]) or (
            self.rejoins and not folder.is_past(until) and self._recorder.rejoin(key)
        )
        if folder.result() is not None or not is_ours:
            self.sender.send(
                Event(kind=EventKind.ENDED, keys=(key,), text="it was not this worker's to train")
            )
            return None
        try:
            return read(self._catalog)
        except KdctlError as error:
            self._recorder.failed(key, Failure(problem=error.problem, hint=error.hint))
            self.sender.send(Event(kind=EventKind.ENDED, keys=(key,), text=error.problem))
            return None

    def _report_failure(self, failure: Failure) -> None:
        """Send a fault of the machine; end this process if its device failed.

        After a failure of CUDA no call works in this process; a new worker may use the device again.
        """
        if failure.fault is not None:
            self._send_fault(failure.fault)
        if failure.device_lost:
            self.sender.send(Event(kind=EventKind.LOST, text=failure.problem))
            self.sender.finish()
            os._exit(DEVICE_LOST)

    def _send_fault(self, fault: MachineFault) -> None:
        self.sender.send(Event(kind=EventKind.FAULT, fault=fault))


class StopRequest:
    """Whether this process is to save and leave: after SIGTERM, SIGINT, or `request`."""

    def __init__(self) -> None:
        """Listen to the signals from now on."""
        self._requested = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self._requested.is_set()

    def request(self) -> None:
        """Ask to stop."""
        self._requested.set()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._requested.is_set():
            os._exit(128 + number)  # the second time: at once, without saving
        self._requested.set()


def _own_stdout() -> IO[str]:
    """Return standard output for events alone; what libraries print goes to standard error instead."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _listen(orders: queue.SimpleQueue[Order | None], stop: StopRequest) -> None:
    """Read orders until standard input ends, then ask to stop."""
    for line in sys.stdin:
        orders.put(from_json(Order, line))
    stop.request()
    orders.put(None)


def main() -> int:
    """Work until standard input ends or a signal comes; return the exit code."""
    events = _own_stdout()
    stop = StopRequest()
    setup = from_json(WorkerSetup, sys.stdin.readline())
    sender = EventSender(events, heartbeat_seconds=setup.lease.heartbeat_seconds)
    logging.getLogger("kdctl").addHandler(LogForwarder(sender))
    worker = Worker(setup=setup, owner=Owner.here(), sender=sender, stop=stop)
    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, stop), daemon=True).start()
    sender.send(Event(kind=EventKind.READY, owner=worker.owner))
    while not stop():
        try:
            order = orders.get(timeout=0.5)  # a signal wakes nobody who waits for ever
        except queue.Empty:
            continue
        if order is None:
            break
        try:
            worker.train(order)
        except MachineError:  # told; the next gang would meet it too
            break
    sender.finish()
    return SAVED


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # without waiting for the thread that reads standard input
