"""How much of the work is done, and how long the rest will take at the pace so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median


@dataclass
class _Pace:
    """Where a run stands in epochs, and where it started in this process."""

    first_seen: float
    seen: float
    first_position: float | None = None
    position: float = 0.0

    @property
    def moved(self) -> float:
        """How far it came in this process."""
        return 0.0 if self.first_position is None else self.position - self.first_position


@dataclass
class RemainingTime:
    """Counts epochs of all runs; runs of a gang move together and share the wall time.

    An epoch of a teacher may take as long as many epochs of its students. What one was estimated to take is
    its weight; without an estimate all weigh the same.
    """

    now: Callable[[], float] = time.monotonic
    _total: dict[str, int] = field(default_factory=dict[str, int])
    _weights: dict[str, float] = field(default_factory=dict[str, float])
    _usual_weight: float = 1.0
    _planned: list[str] = field(default_factory=list[str])
    """The runs like which the later ones count."""
    _num_later: int = 0
    _paces: dict[str, _Pace] = field(default_factory=dict[str, _Pace])
    _closed: set[str] = field(default_factory=set[str])
    _began: float | None = None

    def expect(self, epochs: Mapping[str, int], later: int) -> None:
        """Count on the epochs of these runs besides those counted before, and on `later` runs like them."""
        self._total.update(epochs)
        self._planned, self._num_later = list(epochs), later

    def weigh(self, epoch_seconds: Mapping[str, float]) -> None:
        """Hear what an epoch of each run was estimated to take; for other runs the median counts."""
        self._weights.update(epoch_seconds)
        self._usual_weight = median(self._weights.values()) if self._weights else 1.0

    def start(self, key: str) -> None:
        """Note that a run starts now, from its beginning or from a saved state."""
        now = self.now()
        self._began = now if self._began is None else self._began
        self._paces.setdefault(key, _Pace(first_seen=now, seen=now))

    def move(self, key: str, position: float) -> None:
        """Note that a run stands at `position` epochs."""
        pace = self._paces[key]
        if pace.first_position is None:  # after one step: nearly 0, unless a saved state was taken up
            pace.first_position = position if position > 1.0 else 0.0
        pace.position, pace.seen = position, self.now()

    def close(self, key: str) -> None:
        """Note that a run needs no more time."""
        if key in self._total:
            self._closed.add(key)

    def runs(self) -> tuple[int, int]:
        """Return how many runs are through, and how many there are."""
        return len(self._closed), len(self._total) + self._num_later

    def share(self) -> float:
        """Return the share of all work that is done."""
        everything = sum(map(self._work, self._total)) + self._work_later()
        return 1.0 - self._work_left() / everything if everything else 1.0

    def seconds_left(self) -> float | None:
        """Return how long everything will still take; None before anything moved."""
        moved = sum(pace.moved * self._weight(key) for key, pace in self._paces.items())
        if moved <= 0 or self._began is None:
            return None
        return (self.now() - self._began) / moved * self._work_left()

    def seconds_left_of(self, key: str) -> float | None:
        """Return how long one run will still take; None before it moved."""
        pace = self._paces.get(key)
        if pace is None or pace.moved <= 0:
            return None
        return (pace.seen - pace.first_seen) / pace.moved * (self._total.get(key, 0) - pace.position)

    def _weight(self, key: str) -> float:
        return self._weights.get(key, self._usual_weight)

    def _work(self, key: str) -> float:
        return self._total[key] * self._weight(key)

    def _work_later(self) -> float:
        return self._num_later * fmean(map(self._work, self._planned)) if self._planned else 0.0

    def _work_left(self) -> float:
        return self._work_later() + sum(
            (epochs - (self._paces[key].position if key in self._paces else 0.0)) * self._weight(key)
            for key, epochs in self._total.items()
            if key not in self._closed
        )
