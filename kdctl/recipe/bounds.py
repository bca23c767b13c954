"""What a recipe may hold at all, whatever its fields mean: checked before anything computes with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DEEPEST = 32
"""Tables and lists within each other; no recipe needs more than six."""

MOST_KEYS = 10_000
"""In all tables of a recipe; to look for the name that each unknown one may mean takes a millisecond."""

LARGEST_SEED = 2**63 - 1
"""What generators of random numbers and databases hold."""

LARGEST_WHOLE = 1_000_000_000
"""Of whole numbers that have no smaller bound of their own."""

LARGEST_REAL = 1e30
"""Larger numbers leave the range of 32-bit floats as soon as anything is multiplied by them."""

SMALLEST_REAL = 1e-30
"""Of numbers that are not 0; smaller ones are 0 to 32-bit floats as soon as anything is."""

MOST_SEEDS = 10_000
MOST_POINTS = 100_000
"""Of a grid: planning more takes longer than anybody waits."""


def unfit_text(tree: Any) -> str | None:
    """Say what a tree of tables and lists has that no recipe can mean; None if nothing.

    Works without recursion: it is what keeps others from recursing too deeply.
    """
    level, num_keys = [tree], 0
    for _ in range(DEEPEST):
        num_keys += sum(len(value) for value in level if isinstance(value, Mapping))
        if num_keys > MOST_KEYS:
            return f"its tables have more than {MOST_KEYS:,} keys"
        level = [item for value in level for item in _within(value)]
        if any(isinstance(item, str) and "\0" in item for item in level):
            return "a text has a NUL in it, which no name and no path can have"
        if not level:
            return None
    return f"tables or lists are nested more than {DEEPEST} deep"


def out_of_bounds(option: str, value: float) -> str | None:
    """Say which bound a number is beyond that all options have; None if it is within."""
    if isinstance(value, int):
        most = LARGEST_SEED if option.endswith("seed") else LARGEST_WHOLE
        return None if abs(value) <= most else f"should be at most {most:,}"
    if 0 < abs(value) < SMALLEST_REAL:
        return f"should be 0 or at least {SMALLEST_REAL:g}"
    return None if abs(value) <= LARGEST_REAL else f"should be at most {LARGEST_REAL:g}"


def _within(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value
