"""Which epochs of a run belong to which of its phases, and what the schedules say at a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdctl.errors import KdctlError
from kdctl.protocols.distiller import Phase
from kdctl.recipe.optimization import Schedule


@dataclass(frozen=True, kw_only=True)
class Span:
    """The epochs of one phase within a run."""

    phase: Phase
    first: int
    """How many epochs of the run come before the phase."""
    epochs: int
    """How many epochs the phase has."""

    def share_done(self, position: float) -> float:
        """Return how much of the phase is over `position` epochs after the run's start, from 0 to 1."""
        return (position - self.first) / self.epochs

    def rate_factor(self, schedule: Schedule, position: float) -> float:
        """Return what the learning rate is multiplied by `position` epochs after the run's start.

        The schedule runs anew over each phase, stretched to its length.
        """
        return schedule.factor((position - self.first) * (schedule.epochs / self.epochs))


@dataclass(frozen=True, kw_only=True)
class SchedulePoint:
    """Progress and learning rates at a step."""

    progress: float
    """From 0 at the first step of the phase to 1 after its last."""
    learning_rate: float
    """The recipe's."""
    group_rates: tuple[float, ...]
    """The learning rate of each of the member's optimizers."""


def divide(phases: Sequence[Phase], epochs: int) -> tuple[Span, ...]:
    """Divide the epochs of a run among its phases by their shares, in whole epochs, at least one each.

    Raises:
        KdctlError: there are fewer epochs than phases.
    """
    if epochs < len(phases):
        names = ", ".join(phase.name for phase in phases)
        raise KdctlError(
            f"schedule.epochs = {epochs} is too short for the phases {names}.",
            f"set it to {len(phases)} or more.",
        )
    spans: list[Span] = []
    first, share = 0, 0.0
    for place, phase in enumerate(phases, start=1):
        share += phase.share
        latest = epochs - (len(phases) - place)  # leaves an epoch for each of the others
        end = latest if place == len(phases) else min(max(round(share * epochs), first + 1), latest)
        spans.append(Span(phase=phase, first=first, epochs=end - first))
        first = end
    return tuple(spans)


def span_at(spans: Sequence[Span], epoch: int) -> Span:
    """Return where a run stands that has completed `epoch` epochs; at its end, the last span."""
    return next((span for span in spans if epoch < span.first + span.epochs), spans[-1])
