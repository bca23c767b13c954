"""Rounds of seeds: which configurations go on to the next seed.

A decision depends on the results of the seeds before it alone, never on when or where they came in, so
that a sweep that is stopped and started again decides the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A configuration after some rounds."""

    race: str
    """Configurations with the same value compete."""
    values: tuple[float, ...]
    """Accuracies of the seeds that finished, in percent."""
    num_diverged: int = 0
    """Seeds without a value because they diverged."""


def trailing(
    standings: Mapping[str, Standing], *, margin: float, names: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the configurations that trail their race's leader by more than `margin`, with the reason.

    One of which all seeds diverged trails as well, if any of its race has a value.

    Args:
        standings: by configuration, those still racing.
        margin: in points.
        names: what to call the leaders; their keys if not given.
    """
    leaders: dict[str, str] = {}
    for key, standing in standings.items():
        best = leaders.get(standing.race)
        if standing.values and (best is None or _mean(standing) > _mean(standings[best])):
            leaders[standing.race] = key
    dropped: dict[str, str] = {}
    for key, standing in standings.items():
        leader = leaders.get(standing.race)
        if leader is None:
            continue
        ahead = f"{(names or {}).get(leader, leader)} ({_mean(standings[leader]):.2f} %)"
        if standing.values and _mean(standings[leader]) - _mean(standing) > margin:
            gap = _mean(standings[leader]) - _mean(standing)
            dropped[key] = (
                f"dropped after {_seeds(standing)}: its mean {_mean(standing):.2f} % trails {ahead} "
                f"by {gap:.2f} points, more than {margin:g}"
            )
        elif not standing.values and standing.num_diverged:
            dropped[key] = f"dropped after {_seeds(standing)}: all diverged"
    return dropped


def precise(standings: Mapping[str, Standing], *, target: float, fewest: int) -> dict[str, str]:
    """Return the configurations whose mean is known well enough, with the reason.

    The standard error is that of the sample, s / sqrt(n), from `fewest` values on.
    """
    dropped: dict[str, str] = {}
    for key, standing in standings.items():
        number = len(standing.values)
        if number < max(fewest, 2):
            continue
        error = statistics.stdev(standing.values) / math.sqrt(number)
        if error <= target:
            reached = f"the standard error of its mean, {error:.3f}, is at most {target:g}"
            dropped[key] = f"enough after {_seeds(standing)}: {reached}"
    return dropped


def _mean(standing: Standing) -> float:
    return statistics.fmean(standing.values)


def _seeds(standing: Standing) -> str:
    number = len(standing.values) + standing.num_diverged
    return "1 seed" if number == 1 else f"{number} seeds"
