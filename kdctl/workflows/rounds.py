"""Rounds of seeds: configurations train one seed after the other, and some are dropped in between.

The first round may be cut at rungs: all runs pause after the same epoch, and some do not go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kdctl.assembly.progress import Progress
from kdctl.recipe.limits import Limits
from kdctl.recipe.plan import RunPlan
from kdctl.records import SETTLED, RunState
from kdctl.store.folder import RunFolder
from kdctl.store.store import Store
from kdctl.workflows.racing import dropped_after, dropped_at

IDLE = frozenset({RunState.PLANNED, RunState.INTERRUPTED})
"""States of runs that wait for somebody to train them."""

OPEN = IDLE | {RunState.RUNNING}
"""States of runs that are still to come to an end."""

Replicates = tuple[RunPlan, ...]
"""The runs of one configuration, in the order of seeds."""


class Train(Protocol):
    """Trains runs as far as the budget goes."""

    def __call__(self, plans: Sequence[RunPlan], *, later: int, until: int | None) -> None:
        """Train these, up to an epoch if one is given; the caller will plan `later` more then."""
        ...


@dataclass(kw_only=True)
class Rounds:
    """Trains configurations seed by seed, and drops those that are not worth more."""

    store: Store
    folder: Callable[[str], RunFolder]
    """Gives the folder of a run: what is dropped stands there too, should the database be lost."""
    limits: Limits
    progress: Progress
    train: Train
    later: int = 0
    """How many runs a search will still choose; 0 for a grid."""
    by_turns: bool = False
    """Whether a configuration is held against those before it alone, as in a search."""
    pruned: set[str] = field(default_factory=set[str])
    """Configurations that did not get beyond a rung."""

    def run(self, racing: Sequence[Replicates]) -> bool:
        """Train configurations as far as they get; return whether all that was not dropped has ended."""
        num_seeds, pruning = max(map(len, racing)), self.limits.pruning
        for place in self._rounds(num_seeds):
            rungs = pruning.epochs if pruning and place.start == 0 else ()
            for until in (*rungs, None):
                here = [plans[seed] for seed in place for plans in racing if seed < len(plans)]
                self.train(here, later=self._num_later(racing, place.stop), until=until)
                if self._is_open(here, until):
                    return False
                if pruning and until:
                    reasons = dropped_at(self.store, pruning, racing, until, by_turns=self.by_turns)
                    self.pruned |= reasons.keys()
                    racing = self._without(racing, reasons, first=0)
                elif self.limits.drops_between_seeds:
                    reasons = dropped_after(self.store, self.limits, racing, place.stop)
                    racing = self._without(racing, reasons, first=place.stop)
        return True

    def _rounds(self, num_seeds: int) -> list[range]:
        """Return which seeds train together: those among which nothing is decided."""
        if self.limits.drops_between_seeds:
            return [range(place, place + 1) for place in range(num_seeds)]
        if self.limits.pruning and num_seeds > 1:
            return [range(1), range(1, num_seeds)]
        return [range(num_seeds)]

    def _num_later(self, racing: Sequence[Replicates], place: int) -> int:
        """Return how many runs come after those before `place`, if nobody else is dropped."""
        states = self.store.states([plan.key for plans in racing for plan in plans[place:]])
        return self.later + sum(state not in SETTLED for state in states.values())

    def _is_open(self, plans: Sequence[RunPlan], until: int | None) -> bool:
        """Return whether a run has neither ended nor come to the epoch at which it is to pause.

        Another scheduler may have decided already, and train it further: that is no reason to wait.
        """
        keys = [plan.key for plan in plans]
        states = self.store.states(keys)
        known = self.store.results_at(keys, until) if until else {}
        return any(states[key] in OPEN and key not in known for key in keys)

    def _without(
        self, racing: Sequence[Replicates], reasons: Mapping[str, str], *, first: int
    ) -> list[Replicates]:
        """Drop configurations from their run at `first` on; return those that go on."""
        for plans in racing:
            reason = reasons.get(plans[0].configuration, "")
            states = self.store.states([plan.key for plan in plans[first:]]) if reason else {}
            for plan in plans[first:]:
                state = states.get(plan.key)
                if state in IDLE | {RunState.PRUNED} and self._drop(plan, reason) and state in IDLE:
                    self.progress.ended(plan, RunState.PRUNED, None, reason)
        return [plans for plans in racing if plans[0].configuration not in reasons]

    def _drop(self, plan: RunPlan, reason: str) -> bool:
        """Drop a run; return False if it was dropped already, or somebody trains it by now.

        The folder says so first: a process may be killed in between, and the folder is the truth.
        """
        folder = self.folder(plan.key)
        folder.write_dropped(plan.planned(), reason)
        if self.store.prune([plan.key], reason=reason):
            return True
        if self.store.states([plan.key]).get(plan.key) is not RunState.PRUNED:
            folder.discard_dropped()
        return False
