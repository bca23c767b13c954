"""How patient processes are with each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lease:
    """For how long a process holds a run after its last sign of life, and how often it may die.

    A process that ended on this machine is noticed at once, whatever its lease says.
    """

    seconds: float = 600.0
    """A run whose process is silent for so long may be taken over: longer than any evaluation takes."""
    renew_seconds: float = 20.0
    """At most so often a process gives a sign of life."""
    most_deaths: int = 3
    """A run whose worker died so often, without getting any further in between, fails."""

    @property
    def grace_seconds(self) -> float:
        """How long to watch a lease that has run out by the clock: the clock may have been set."""
        return min(3 * self.renew_seconds, self.seconds)
