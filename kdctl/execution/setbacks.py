"""Workers that died, and the runs that may have killed them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdctl.assembly.failure import Failure


@dataclass(kw_only=True)
class Setbacks:
    """Counts the deaths of workers by the runs they trained.

    A machine may be restarted and a process killed for reasons that lie outside of a run: a run that
    got further than before is innocent, and starts to count anew.
    """

    most_deaths: int
    """When a run fails."""
    _deaths: dict[str, int] = field(default_factory=dict[str, int])
    _reached: dict[str, int] = field(default_factory=dict[str, int])

    def count(self, key: str, reason: str, *, reached: int) -> Failure | None:
        """Count a death with a run that had `reached` so many epochs; return why it fails, if it does."""
        if reached > self._reached.get(key, 0):
            self._deaths[key] = 0
        self._reached[key] = max(reached, self._reached.get(key, 0))
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] < self.most_deaths:
            return None
        times = self._deaths[key]
        return Failure(
            problem=f"its worker died {times} times in epoch {reached + 1}, the last time: {reason}",
            hint="mend what kills it (memory of the machine, a compiled library), then --retry-failed.",
        )

    def is_suspect(self, key: str) -> bool:
        """Return whether a run should train alone: its worker died more than once."""
        return self._deaths.get(key, 0) > 1
