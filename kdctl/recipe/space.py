"""Which configurations a recipe asks for: points of `[grid]`, ranges of `[search]`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt

from kdctl.recipe.component import RANGE, Range
from kdctl.recipe.layers import Layer, flat, nested
from kdctl.recipe.load import SECTIONS
from kdctl.recipe.resolve import Resolver

Choice = Range | tuple[Any, ...]
"""A range of numbers, or the values to choose from."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of the search space: dotted field -> value."""

    values: Mapping[str, Any]

    def layer(self, source: str) -> Layer:
        """Return the point as the topmost layer of its recipe."""
        return Layer(source=source, values=nested(self.values))


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search space, and how to look through it."""

    sampler: str
    """'tpe' or 'random'."""
    trials: int
    """How many configurations to try."""
    batch: int
    """How many are asked for at once, and trained as a gang."""
    metric: str
    """'val' or 'test': the split whose accuracy is maximised."""
    sampler_seed: int
    space: Mapping[str, Choice]


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The `[search]` table without its space."""

    sampler: Literal["tpe", "random"] = "tpe"
    trials: Annotated[int, Gt(0)] = 20
    batch: Annotated[int, Gt(0)] = 1
    metric: Literal["val", "test"] = "val"
    sampler_seed: int = 0


def grid_points(blocks: Any, resolver: Resolver) -> tuple[Point, ...]:
    """Return the points of `[grid]`, or of all `[[grid]]` blocks, in the recipe's order.

    Each block is a table of lists and gives their cartesian product, the first field outermost.
    """
    points: dict[str, Point] = {}
    for block in blocks if isinstance(blocks, list) else [blocks]:
        if not isinstance(block, Mapping) or not block:
            resolver.wrong(
                "grid", "[grid] is empty.", "name fields with lists of values, or leave [grid] out."
            )
            continue
        axes = flat(block)
        if not all([_is_axis(dotted, values, resolver) for dotted, values in axes.items()]):  # noqa: C419 - report all
            continue
        for combination in itertools.product(*axes.values()):
            point = Point(values=dict(zip(axes, combination, strict=True)))
            points[repr(sorted(point.values.items(), key=lambda item: item[0]))] = point
    return tuple(points.values())


def search_space(table: Any, resolver: Resolver, ranges: Mapping[str, Range]) -> Search | None:
    """Read `[search]`: options, and in `space` a range, a list of choices, or {} for a field's own range."""
    if not isinstance(table, Mapping):
        resolver.wrong("search", "[search] is not a table.", "write [search] and [search.space].")
        return None
    options = resolver.record(SearchOptions, {k: v for k, v in table.items() if k != "space"}, "search")
    fields = flat(_with_ranges(table.get("space", {})), Range)
    if not fields:
        resolver.wrong(
            "search", "[search.space] is empty.", "name at least one field with a range or choices."
        )
    space: dict[str, Choice] = {}
    for dotted, value in fields.items():
        choice = _choice(dotted, value, resolver, ranges)
        if choice is not None:
            space[dotted] = choice
    if options is None:
        return None
    return Search(**vars(options), space=space)


def _is_axis(dotted: str, values: Any, resolver: Resolver) -> bool:
    section = dotted.partition(".")[0]
    if section not in SECTIONS:
        resolver.wrong(
            f"grid.{dotted}",
            f"[grid] {dotted} is not a field of a run.",
            f"fields start with one of: {', '.join(SECTIONS)}. Seeds go into `seeds`.",
        )
        return False
    if not isinstance(values, list) or not values:
        resolver.wrong(
            f"grid.{dotted}",
            f"[grid] {dotted} = {values!r} has no values.",
            "write a list with at least one value.",
        )
        return False
    return True


def _with_ranges(table: Any) -> dict[str, Any]:
    """Replace tables of a range ({low, high, log}, or {}) by `Range` objects or None."""
    result: dict[str, Any] = {}
    for key, value in (table if isinstance(table, Mapping) else {}).items():
        if not isinstance(value, Mapping):
            result[key] = value
        elif not value:
            result[key] = None
        elif {"low", "high"} <= set(value) <= {"low", "high", "log"}:
            result[key] = Range(low=value["low"], high=value["high"], log=value.get("log", False))
        else:
            result[key] = _with_ranges(value)
    return result


def _choice(dotted: str, value: Any, resolver: Resolver, ranges: Mapping[str, Range]) -> Choice | None:
    where = f"search.space.{dotted}"
    if dotted.partition(".")[0] not in SECTIONS:
        resolver.wrong(
            where, f"[search.space] {dotted} is not a field of a run.", f"sections: {', '.join(SECTIONS)}."
        )
    elif isinstance(value, list) and value:
        return tuple(value)
    elif isinstance(value, Range):
        if value.low < value.high and (value.low > 0 or not value.log):
            return value
        resolver.wrong(
            where,
            f"[search.space] {dotted}: low = {value.low}, high = {value.high} is no range.",
            "low < high; log needs low > 0.",
        )
    elif value is None and dotted in ranges:
        return ranges[dotted]
    else:
        resolver.wrong(
            where,
            f"[search.space] {dotted} = {value!r} is neither a range nor a list of choices.",
            "write { low = 0.001, high = 0.1, log = true } or a list.",
        )
    return None


def tunable_ranges(sections: Sequence[tuple[str, Any]]) -> dict[str, Range]:
    """Return the ranges that options declare with `tunable`, by dotted field."""
    return {
        f"{section}.{item.name}": item.metadata[RANGE]
        for section, options in sections
        for item in options.__dataclass_fields__.values()
        if RANGE in item.metadata
    }
