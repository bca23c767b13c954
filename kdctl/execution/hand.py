"""One member of an executor, as its scheduler knows it from what it says."""

from __future__ import annotations

import logging
import time

from kdctl.execution.executor import ReleasedRun
from kdctl.execution.ledger import Ledger
from kdctl.execution.messages import Event, EventKind
from kdctl.machine_errors import MachineFault
from kdctl.recipe.plan import RunPlan
from kdctl.store.owner import Owner

_log = logging.getLogger(__name__)


class Hand:
    """Keeps what a member trains, and passes on what it tells of that."""

    def __init__(self, ledger: Ledger) -> None:
        """Start with nothing to do, and nothing heard."""
        self.heard = time.monotonic()
        """When it last said anything."""
        self.owner: Owner | None = None
        """Who it is, once that is known."""
        self.plans: dict[str, RunPlan] = {}
        """What it trains, by run key."""
        self.started = False
        """Whether it has begun with them."""
        self.moving = False
        """Whether they have taken a step: before that, data are read and models are built in silence."""
        self.last_words = ""
        """Why it leaves, if that is known."""
        self.fault: MachineFault | None = None
        """What its machine refused; then it leaves."""
        self._ledger = ledger
        self._indexed: set[str] = set()

    def hear(self, event: Event) -> list[str]:
        """Pass on an event; return the keys of runs that it no longer trains, as it says."""
        self.heard = time.monotonic()
        known = [key for key in event.keys if key in self.plans]
        match event.kind:
            case EventKind.STARTED:
                self.started = True
                self._ledger.progress.started([self.plans[key] for key in known])
            case EventKind.STEPPED:
                self.moving = True
                for key in event.positions.keys() & self.plans.keys():
                    self._index(key)
                    self._ledger.progress.stepped(key, event.positions[key])
            case EventKind.EPOCH if event.result is not None:
                for key in known:
                    self._index(key)
                    self._ledger.epoch(self.plans[key], event.result)
            case EventKind.ENDED:
                for key in known:
                    self._index(key)
                return known
            case EventKind.NOTE:
                _log.warning("%s", event.text)
            case EventKind.LOST:
                self.last_words = event.text
            case EventKind.FAULT if event.fault is not None:
                self.last_words, self.fault = event.fault.problem, event.fault
            case _:
                pass
        return []

    def returned(self, key: str, reason: str, *, worker_died: bool = False) -> ReleasedRun:
        """Take a run from it, and return it to the scheduler."""
        assert self.owner is not None, "only a member that is known has runs"
        return ReleasedRun(plan=self.plans.pop(key), owner=self.owner, reason=reason, worker_died=worker_died)

    def taken(self, reason: str, *, worker_died: bool = False) -> list[ReleasedRun]:
        """Take everything from it."""
        return [self.returned(key, reason, worker_died=worker_died) for key in list(self.plans)]

    def _index(self, key: str) -> None:
        """Keep where a run is computed, the first time it is heard of."""
        if key not in self._indexed:
            self._indexed.add(key)
            self._ledger.opened(self.plans[key])
