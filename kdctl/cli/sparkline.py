"""A curve in one line of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean

BLOCKS = "▁▂▃▄▅▆▇█"

MISSING = "·"
"""Stands for a value that is no finite number."""


def sparkline(values: Sequence[float], *, width: int = 60) -> str:
    """Draw values from left to right, the lowest as the lowest block; long curves in means of their parts."""
    points = _shortened(values, width)
    finite = [point for point in points if math.isfinite(point)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    return "".join(_block(point, low, high) for point in points)


def _shortened(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [place * len(values) // width for place in range(width + 1)]
    return [fmean(values[start:end]) for start, end in itertools.pairwise(edges)]


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return MISSING
    height = (value - low) / (high - low) if high > low else 0.0
    return BLOCKS[min(int(height * len(BLOCKS)), len(BLOCKS) - 1)]
