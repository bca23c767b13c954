"""A worker: trains the gangs that a scheduler sends, and writes run folders. It has no database.

    python -m kdctl.execution.worker

The first line on standard input is a `Setup`, every other one an `Order`; events go to standard
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
from kdctl.errors import KdctlError
from kdctl.execution.gang_run import GangTrainer
from kdctl.execution.messages import Event, EventKind, Order, Setup
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

MOST_UNHEARD = 1000
"""Steps are not told any more while so many events wait for the scheduler to listen."""


class Voice:
    """Tells events in a thread of its own: a scheduler that does not listen must not hold up training."""

    def __init__(self, stream: IO[str], *, heartbeat_seconds: float | None = None) -> None:
        """Write lines to `stream`.

        Args:
            stream: what the scheduler reads.
            heartbeat_seconds: after so long without an event, tell that the process runs; None: never.
        """
        self._stream, self._heartbeat_seconds = stream, heartbeat_seconds
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Tell an event soon."""
        if event.kind is not EventKind.STEPPED or self._events.qsize() < MOST_UNHEARD:
            self._events.put(event)

    def finish(self, seconds: float = 5.0) -> None:
        """Wait until everything is told, but not for ever: folders hold the truth."""
        self._events.put(None)
        self._thread.join(seconds)

    def _next(self) -> Event | None:
        try:
            return self._events.get(timeout=self._heartbeat_seconds)
        except queue.Empty:
            return Event(kind=EventKind.ALIVE)

    def _speak(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._stream.write(to_json(event) + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # nobody listens any more
                return


@dataclass(kw_only=True)
class Told:
    """Progress of a worker: passed on to the scheduler."""

    voice: Voice
    _last: float = 0.0
    _positions: dict[str, float] = field(default_factory=dict[str, float])

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None:
        """Say nothing: the scheduler planned."""

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Tell which runs train together."""
        self._positions.clear()
        self.voice.tell(Event(kind=EventKind.STARTED, keys=tuple(plan.key for plan in plans)))

    def stepped(self, key: str, position: float) -> None:
        """Tell now and then where the runs stand."""
        self._positions[key] = position
        if time.monotonic() - self._last > STEP_SECONDS:
            self._last = time.monotonic()
            self.voice.tell(Event(kind=EventKind.STEPPED, positions=dict(self._positions)))

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Tell an epoch's numbers."""
        self.voice.tell(Event(kind=EventKind.EPOCH, keys=(plan.key,), result=result))

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Tell that this run is not ours any more."""
        del state, result  # the folder holds them
        self._positions.pop(plan.key, None)
        self.voice.tell(Event(kind=EventKind.ENDED, keys=(plan.key,), text=reason))

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Say nothing: a worker does not wait."""


class Notes(logging.Handler):
    """Passes on what kdctl's rooms log."""

    def __init__(self, voice: Voice) -> None:
        """Tell warnings."""
        super().__init__(logging.WARNING)
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record."""
        self._voice.tell(Event(kind=EventKind.NOTE, text=record.getMessage()))


@dataclass(kw_only=True)
class Worker:
    """Trains one gang after the other, in folders that name `owner` as their holder."""

    setup: Setup
    owner: Owner
    voice: Voice
    stop: Callable[[], bool]
    rejoins: bool = False
    """Whether its runs are still its own after it let go of them: a job that was put back into the queue."""

    def __post_init__(self) -> None:
        """Load plug-ins, and keep data sets from one gang to the next."""
        for path in self.setup.plugins:
            load_plugin_file(Path(path))
        self._catalog = full_catalog()
        self._context = self.setup.context()
        self._recorder = FolderRecorder(context=self._context, owner=self.owner, lease=self.setup.lease)
        self._progress = Told(voice=self.voice)

    def train(self, order: Order) -> None:
        """Train those runs of a gang that are still ours and have not ended before.

        Raises:
            MachineError: the machine has a fault; that is told, and the runs are given back.
        """
        try:
            with as_machine_errors():
                readied = (self._readied(run.key, run.read, order.until) for run in order.runs)
                plans = [plan for plan in readied if plan is not None]
        except MachineError as error:
            self._tell_fault(error.fault)
            raise
        if plans:
            trainer = GangTrainer(
                context=self._context,
                recorder=self._recorder,
                progress=self._progress,
                stop=self.stop,
                until=order.until,
                heartbeat_seconds=self.setup.lease.heartbeat_seconds,
                on_failure=self._consider,
            )
            trainer.train(plans)
        self.voice.tell(Event(kind=EventKind.IDLE))

    def _readied(self, key: str, read: Callable[..., RunPlan], until: int | None) -> RunPlan | None:
        """Return a run's plan; None for one that is somebody else's, is through or cannot be read."""
        folder = self._context.folder(key)
        is_ours = self._recorder.renew([key]) or (
            self.rejoins and not folder.is_past(until) and self._recorder.rejoin(key)
        )
        if folder.result() is not None or not is_ours:
            self.voice.tell(
                Event(kind=EventKind.ENDED, keys=(key,), text="it was not this worker's to train")
            )
            return None
        try:
            return read(self._catalog)
        except KdctlError as error:
            self._recorder.failed(key, Failure(problem=error.problem, hint=error.hint))
            self.voice.tell(Event(kind=EventKind.ENDED, keys=(key,), text=error.problem))
            return None

    def _consider(self, failure: Failure) -> None:
        """Tell a fault of the machine; end this process if it cannot use its device any more: another may."""
        if failure.fault is not None:
            self._tell_fault(failure.fault)
        if failure.device_lost:
            self.voice.tell(Event(kind=EventKind.LOST, text=failure.problem))
            self.voice.finish()
            os._exit(DEVICE_LOST)

    def _tell_fault(self, fault: MachineFault) -> None:
        self.voice.tell(Event(kind=EventKind.FAULT, fault=fault))


class Wishes:
    """Hears when to stop: from SIGTERM, SIGINT, or `wish`."""

    def __init__(self) -> None:
        """Nobody wishes to stop yet."""
        self._wished = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self._wished.is_set()

    def wish(self) -> None:
        """Wish to stop."""
        self._wished.set()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._wished.is_set():
            os._exit(128 + number)  # the second time: at once, without saving
        self._wished.set()


def _own_stdout() -> IO[str]:
    """Keep standard output for events; what anybody else prints goes to standard error."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _listen(orders: queue.SimpleQueue[Order | None], wishes: Wishes) -> None:
    """Pass on orders until there will be no more."""
    for line in sys.stdin:
        orders.put(from_json(Order, line))
    wishes.wish()
    orders.put(None)


def main() -> int:
    """Work until standard input ends or a signal comes; return the exit code."""
    events = _own_stdout()
    wishes = Wishes()
    setup = from_json(Setup, sys.stdin.readline())
    voice = Voice(events, heartbeat_seconds=setup.lease.heartbeat_seconds)
    logging.getLogger("kdctl").addHandler(Notes(voice))
    worker = Worker(setup=setup, owner=Owner.here(), voice=voice, stop=wishes)
    orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, wishes), daemon=True).start()
    voice.tell(Event(kind=EventKind.READY, owner=worker.owner))
    while not wishes():
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
    voice.finish()
    return SAVED


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # without waiting for the thread that reads standard input
