"""Which gangs an executor forms, and how long it takes with them."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Sequence

from kdctl.recipe.gangs import form_gangs
from kdctl.recipe.plan import RunPlan

Gang = list[RunPlan]


def gangs_of(
    teachers: Sequence[RunPlan],
    runs: Sequence[RunPlan],
    *,
    gang_size: int,
    slots: int,
    pausing: Container[str] = (),
) -> list[Gang]:
    """Return the gangs in the order in which they are handed out, formed so that no slot idles.

    Args:
        teachers: runs to train first.
        runs: the others; teachers among them count as teachers.
        gang_size: members of a gang, at most.
        slots: gangs that train at once.
        pausing: keys of runs that pause after some epoch.
    """
    first = {plan.key for plan in teachers}
    others = [plan for plan in runs if plan.key not in first]
    size = min(gang_size, -(-(len(first) + len(others)) // slots) or 1)
    return [*form_gangs(teachers, size), *gangs_apart(others, size, pausing)]


def gangs_apart(plans: Sequence[RunPlan], size: int, pausing: Container[str]) -> list[Gang]:
    """Group runs that train in lockstep; a student that teaches others does not pause with the others."""
    whole = [plan for plan in plans if plan.key not in pausing]
    paused = [plan for plan in plans if plan.key in pausing]
    return [*form_gangs(whole, size), *form_gangs(paused, size)]


def makespan(gangs: Sequence[Gang], seconds: Sequence[float], *, slots: int) -> float:
    """Return when the last gang ends, if each takes the given time and waits for its own teachers only."""
    free = [0.0] * slots
    ends = {plan.key: float("inf") for gang in gangs for plan in gang}
    waiting = [
        (gang, _teachers(gang) & ends.keys(), spent) for gang, spent in zip(gangs, seconds, strict=True)
    ]
    while waiting:
        now = heapq.heappop(free)
        ready = (max((ends[key] for key in teachers), default=0.0) for _, teachers, _ in waiting)
        place, since = _first_ready(ready, now)
        gang, _, spent = waiting.pop(place)
        end = max(now, since) + spent
        ends.update((plan.key, end) for plan in gang)
        heapq.heappush(free, end)
    return max(ends.values(), default=0.0)


def _first_ready(times: Iterable[float], now: float) -> tuple[int, float]:
    """Return the place and the time of the first that is ready now, else of the one that is ready soonest."""
    soonest = (0, float("inf"))
    for place, time in enumerate(times):
        if time <= now:
            return place, time
        if time < soonest[1]:
            soonest = (place, time)
    return soonest


def _teachers(gang: Gang) -> set[str]:
    return {teacher.run for teacher in gang[0].teachers if teacher.plan}
