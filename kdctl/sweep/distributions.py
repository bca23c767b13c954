"""What Optuna is told of a configuration: parameters, and the distributions that they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from kdctl.recipe.component import Range
from kdctl.recipe.space import Choice, Point

_WIDE = 10.0
"""Times the smallest number of a grid that its largest one must be for an axis of powers of ten."""


def as_distribution(choice: Choice) -> BaseDistribution:
    """Return from where a search takes its values: a range, or a list of choices."""
    if not isinstance(choice, Range):
        return CategoricalDistribution([_scalar(value) for value in choice])
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return IntDistribution(choice.low, choice.high, log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)


def grid_distributions(points: Sequence[Point]) -> dict[str, BaseDistribution]:
    """Return from where to where each field goes if its values are numbers, else the values.

    Optuna keeps the distribution with each trial: two thousand choices two thousand times would be tens of
    megabytes. Numbers also have an axis in a dashboard, choices have none.
    """
    choices: dict[str, dict[Any, None]] = {}
    for point in points:
        for dotted, value in as_parameters(point.values).items():
            choices.setdefault(dotted, {})[value] = None
    return {dotted: _grid_distribution(list(values)) for dotted, values in choices.items()}


def _grid_distribution(values: Sequence[Any]) -> BaseDistribution:
    if any(isinstance(value, (bool, str)) for value in values):
        return CategoricalDistribution(values)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(min(values), max(values))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=low > 0.0 and high >= _WIDE * low)


def as_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a point as Optuna stores it: tables and lists as JSON text."""
    return {dotted: _scalar(value) for dotted, value in values.items()}


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value, sort_keys=True)


def from_scalar(value: Any) -> Any:
    """Return a value of a point from what Optuna stored of it."""
    if isinstance(value, str) and value[:1] in "{[":
        return json.loads(value)
    return value
