"""Rounds of seeds, and rungs within the first of them: which configurations go on.

A decision depends on the results of the seeds before it alone, or on those of one epoch, never on when
or where they came in, so that a sweep that is stopped and started again decides the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kdctl.text import plural

_ROUNDING = 1e-9
"""A difference that is smaller decides nothing: it is in the last bits of sums and products."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A configuration after some rounds, or at a rung."""

    race: str
    """Configurations with the same value compete."""
    values: tuple[float, ...]
    """Accuracies of the seeds that finished, in percent; at a rung, of the one seed that got there."""
    num_diverged: int = 0
    """Seeds without a value because they diverged."""
    rung: str = ""
    """What the rung is called, as 'epoch 160 of seed 0'; empty after whole rounds."""


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
        gap = _mean(standings[leader]) - _mean(standing) if standing.values else 0.0
        if gap > margin + _ROUNDING:
            dropped[key] = (
                f"dropped after {_when(standing)}: its {_accuracy(standing)} trails {ahead} "
                f"by {gap:.2f} points, more than {margin:g}"
            )
        elif not standing.values and standing.num_diverged:
            dropped[key] = _diverged(standing)
    return dropped


def outside(standings: Mapping[str, Standing], *, keep: float) -> dict[str, str]:
    """Return the configurations that are not among the best of their race, with the reason.

    At least one goes on, and whatever equals the last that does. One that diverged takes part, and comes
    last.

    Args:
        standings: by configuration, those still racing.
        keep: the share of a race that goes on, rounded up.
    """
    dropped: dict[str, str] = {}
    for race in dict.fromkeys(standing.race for standing in standings.values()):
        judged = {key: item for key, item in standings.items() if item.race == race and _is_judged(item)}
        means = sorted((_mean(item) for item in judged.values() if item.values), reverse=True)
        if not means:
            continue
        places = share_of(len(judged), keep)
        last = means[min(places, len(means)) - 1]
        for key, standing in judged.items():
            if not standing.values:
                dropped[key] = _diverged(standing)
            elif _mean(standing) < last:
                dropped[key] = (
                    f"dropped after {_when(standing)}: its {_accuracy(standing)} is not among the best "
                    f"{places} of {len(judged)}, from {last:.2f} % on"
                )
    return dropped


def in_turn(
    standings: Mapping[str, Standing], judge: Callable[[Mapping[str, Standing]], Mapping[str, str]]
) -> dict[str, str]:
    """Judge each configuration among those up to it; return those that are dropped, with the reason.

    So a search decides, whose later configurations are not known yet, and depend on what it decides.

    Args:
        standings: by configuration, in the order in which they were proposed.
        judge: returns which of some standings are dropped, and why.
    """
    known: dict[str, Standing] = {}
    dropped: dict[str, str] = {}
    for key, standing in standings.items():
        known[key] = standing
        reason = judge(known).get(key)
        if reason:
            dropped[key] = reason
    return dropped


def share_of(number: int, keep: float) -> int:
    """Return how many of a race go on: at least one."""
    return max(math.ceil(keep * number - _ROUNDING), 1)  # 0.1 of 30 is 3


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
        if error <= target + _ROUNDING:
            reached = f"the standard error of its mean, {error:.3f}, is at most {target:g}"
            dropped[key] = f"enough after {_when(standing)}: {reached}"
    return dropped


def _mean(standing: Standing) -> float:
    return statistics.fmean(standing.values)


def _is_judged(standing: Standing) -> bool:
    return bool(standing.values or standing.num_diverged)


def _accuracy(standing: Standing) -> str:
    return f"{_mean(standing):.2f} %" if standing.rung else f"mean {_mean(standing):.2f} %"


def _diverged(standing: Standing) -> str:
    return f"dropped after {_when(standing)}: {'it' if standing.rung else 'all'} diverged"


def _when(standing: Standing) -> str:
    if standing.rung:
        return standing.rung
    return plural(len(standing.values) + standing.num_diverged, "seed")
