"""What a scheduler knows of its workers: what each trains, and with which runs workers died."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from kdctl.assembly.failure import Failure
from kdctl.execution.executor import ReleasedRun
from kdctl.execution.messages import Event, EventKind
from kdctl.execution.recorders import IndexRecorder
from kdctl.machine_errors import MachineFault
from kdctl.recipe.plan import RunPlan
from kdctl.store.leases import Owner

_log = logging.getLogger(__name__)


class WorkerState:
    """Keeps which runs a worker trains, and passes on the events that it sends about them."""

    def __init__(self, recorder: IndexRecorder) -> None:
        """Start without runs."""
        self.last_heard = time.monotonic()
        """When its last event came, a mere heartbeat (`EventKind.ALIVE`) included."""
        self.last_news = self.last_heard
        """When its last event came that was more than a heartbeat."""
        self.owner: Owner | None = None
        """Its process or job; None until it is known."""
        self.plans: dict[str, RunPlan] = {}
        """What it trains, by run key."""
        self.started = False
        """Whether it has begun with them."""
        self.has_stepped = False
        """Whether they have taken a step: before that, data are read and models are built in silence."""
        self.exit_reason = ""
        """Why it leaves, if that is known."""
        self.fault: MachineFault | None = None
        """What its machine refused; then it leaves."""
        self._recorder = recorder
        self._indexed: set[str] = set()

    def handle_event(self, event: Event) -> list[str]:
        """Pass on an event; return the keys of runs that the worker says it no longer trains."""
        self.last_heard = time.monotonic()
        if event.kind is not EventKind.ALIVE:
            self.last_news = self.last_heard
        known = [key for key in event.keys if key in self.plans]
        match event.kind:
            case EventKind.STARTED:
                self.started = True
                self._indexed.difference_update(known)  # after a pause or a failure their gang is another one
                self._recorder.progress.started([self.plans[key] for key in known])
            case EventKind.STEPPED:
                self.has_stepped = True
                for key in event.positions.keys() & self.plans.keys():
                    self._index(key)
                    self._recorder.progress.stepped(key, event.positions[key])
            case EventKind.EPOCH if event.result is not None:
                for key in known:
                    self._index(key)
                    self._recorder.epoch(self.plans[key], event.result)
            case EventKind.ENDED:
                for key in known:
                    self._index(key)
                return known
            case EventKind.NOTE:
                _log.warning("%s", event.text)
            case EventKind.LOST:
                self.exit_reason = event.text
            case EventKind.FAULT if event.fault is not None:
                self.exit_reason, self.fault = event.fault.problem, event.fault
            case _:
                pass
        return []

    def silence(self, now: float, *, patience: float, start_patience: float) -> float | None:
        """Return the limit in seconds that its silence has exceeded; None if it has not.

        A process that runs sends heartbeats, whatever it does: one that sends none was stopped, or its
        machine hangs. One that sends nothing but heartbeats may be reading data or building models, which
        takes longer than a step.

        Args:
            now: of the monotonic clock, in seconds.
            patience: how long its process may be silent, and how long it may take from step to step.
            start_patience: how long it may take to become ready, and to the first step of a gang.
        """
        runs = self.owner is not None
        working = patience if self.has_stepped else max(start_patience, patience)
        if runs and now - self.last_heard > patience:
            return patience
        return working if now - self.last_news > working else None

    def forgive(self, seconds: float) -> None:
        """Do not count so many seconds as its silence: this process was stopped, and read no events."""
        self.last_heard += seconds
        self.last_news += seconds

    def release(self, key: str, reason: str, *, worker_died: bool = False) -> ReleasedRun:
        """Take a run from it, for the scheduler to go on with."""
        assert self.owner is not None, "only a worker that is known has runs"
        return ReleasedRun(plan=self.plans.pop(key), owner=self.owner, reason=reason, worker_died=worker_died)

    def release_all(self, reason: str, *, worker_died: bool = False) -> list[ReleasedRun]:
        """Take all its runs from it."""
        return [self.release(key, reason, worker_died=worker_died) for key in list(self.plans)]

    def _index(self, key: str) -> None:
        """Record where a run is computed, at the first event about it since it started."""
        if key not in self._indexed:
            self._indexed.add(key)
            self._recorder.opened(self.plans[key])


@dataclass(kw_only=True)
class CrashCounter:
    """Counts the deaths of workers by the runs they trained.

    A worker may die for reasons outside of its run: its machine is restarted, or the system kills it. So only
    deaths without progress count: a run that got further than at the death before starts at one again.
    """

    max_crashes: int
    """With so many deaths in the same epoch a run fails."""
    _deaths: dict[str, int] = field(default_factory=dict[str, int])
    _reached: dict[str, int] = field(default_factory=dict[str, int])

    def count(self, key: str, reason: str, *, reached: int) -> Failure | None:
        """Count a death with a run that had `reached` so many epochs; return why it fails, if it does."""
        if reached > self._reached.get(key, 0):
            self._deaths[key] = 0
        self._reached[key] = max(reached, self._reached.get(key, 0))
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] < self.max_crashes:
            return None
        times = self._deaths[key]
        return Failure(
            problem=f"its worker died {times} times in epoch {reached + 1}, the last time: {reason}",
            hint="mend what kills it (memory of the machine, a compiled library), then --retry-failed.",
        )

    def is_suspect(self, key: str) -> bool:
        """Return whether a run should train alone: its worker died more than once."""
        return self._deaths.get(key, 0) > 1
