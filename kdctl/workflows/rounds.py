"""Rounds of seeds: configurations train one seed after the other, and some are dropped in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdctl.lab.progress import Progress
from kdctl.recipe.limits import Limits
from kdctl.recipe.plan import RunPlan
from kdctl.records import RunState
from kdctl.store.store import Store
from kdctl.workflows.racing import dropped_after

IDLE = frozenset({RunState.PLANNED, RunState.INTERRUPTED})
"""States of runs that wait for somebody to train them."""

OPEN = IDLE | {RunState.RUNNING}
"""States of runs that are still to come to an end."""

Replicates = tuple[RunPlan, ...]
"""The runs of one configuration, in the order of seeds."""


class Train(Protocol):
    """Trains runs as far as the budget goes."""

    def __call__(self, plans: Sequence[RunPlan], later: int) -> None:
        """Train these; the caller will plan `later` more when they have ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Trains configurations seed by seed, and drops those that are not worth more."""

    store: Store
    limits: Limits
    progress: Progress
    train: Train

    def run(self, racing: Sequence[Replicates]) -> None:
        """Train one seed after the other; configurations that a round drops get no further seeds."""
        num_seeds = len(racing[0])
        for place in range(num_seeds):
            here = [plans[place] for plans in racing]
            self.train(here, later=len(racing) * (num_seeds - place - 1))
            states = self.store.states([plan.key for plan in here])
            if any(state in OPEN for state in states.values()):
                return
            reasons = dropped_after(self.store, self.limits, racing, place + 1)
            racing = self._without(racing, reasons, first=place + 1)

    def _without(
        self, racing: Sequence[Replicates], reasons: Mapping[str, str], *, first: int
    ) -> list[Replicates]:
        """Drop configurations from their run at `first` on; return those that go on."""
        for plans in racing:
            reason = reasons.get(plans[0].configuration, "")
            states = self.store.states([plan.key for plan in plans[first:]]) if reason else {}
            for plan in plans[first:]:
                if states.get(plan.key) in IDLE and self.store.prune([plan.key], reason=reason):
                    self.progress.ended(plan, RunState.PRUNED, None, reason)
        return [plans for plans in racing if plans[0].configuration not in reasons]
