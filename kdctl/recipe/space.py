"""Which configurations a recipe asks for: points of `[grid]`, ranges of `[search]`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from kdctl.recipe.bounds import MOST_POINTS
from kdctl.recipe.component import COMPONENT, COMPONENT_DEFAULT, RANGE, Range
from kdctl.recipe.layers import NAME, Layer, flat, look_up, nested
from kdctl.recipe.resolve import Resolver
from kdctl.recipe.sections import PLUGIN_SECTIONS, SECTIONS, default_name, fields_called
from kdctl.recipe.values_in_toml import as_written

TOGETHER = "together"
"""Key of a grid's block that lists tables of fields instead of values of one field."""

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
    """'tpe', 'random', or 'cmaes' (ranges only, at least two of them)."""
    trials: int
    """How many configurations to try."""
    batch: int
    """How many are asked for at once, and trained as a gang."""
    metric: str
    """'val' or 'test': the split whose accuracy is maximised."""
    sampler_seed: int
    space: Mapping[str, Choice]

    def probes(self) -> tuple[Point, ...]:
        """Return points that show early what is wrong.

        The first is that of all lowest values and first choices. In the others, one of its values is
        replaced by the highest one, or by another choice.
        """
        ends = {
            dotted: choice if isinstance(choice, tuple) else (choice.low, choice.high)
            for dotted, choice in self.space.items()
        }
        first = {dotted: values[0] for dotted, values in ends.items()}
        others = [
            Point(values={**first, dotted: value}) for dotted, values in ends.items() for value in values[1:]
        ]
        return Point(values=first), *others


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The `[search]` table without its space."""

    sampler: Literal["tpe", "random", "cmaes"] = "tpe"
    trials: Annotated[int, Gt(0), Le(MOST_POINTS)] = 20
    batch: Annotated[int, Gt(0), Le(MOST_POINTS)] = 1
    metric: Literal["val", "test"] = "val"
    sampler_seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0


def grid_points(blocks: Any, resolver: Resolver) -> tuple[Point, ...]:
    """Return the points of `[grid]`, or of all `[[grid]]` blocks, in the recipe's order, each once.

    Each block is a table of lists and gives their cartesian product, the first field outermost. The
    list `together` holds tables instead, of fields that change together (a teacher and its student):
    one more axis, outside all others.
    """
    points: dict[str, Point] = {}
    for block in (blocks if isinstance(blocks, list) else [blocks]) or [{}]:
        axes = _axes(block, resolver)
        number = math.prod(map(len, axes))
        if number + len(points) > MOST_POINTS:
            problem = f"[grid] has {number:,} configurations, more than the {MOST_POINTS:,} that it may."
            resolver.wrong("grid", problem, "leave values out, or let [search] choose among them.")
            return ()
        for combination in itertools.product(*axes):
            values = {dotted: value for fields in combination for dotted, value in fields.items()}
            points.setdefault(repr(sorted(values.items(), key=lambda item: item[0])), Point(values=values))
    return tuple(points.values())


def search_space(table: Any, resolver: Resolver) -> Search | None:
    """Read `[search]`: options, and in `space` a range, a list of choices, or {} for a field's own range.

    Returns:
        None after a mistake.
    """
    if not isinstance(table, Mapping):
        resolver.wrong("search", "[search] is not a table.", "write [search] and [search.space].")
        return None
    options = resolver.record(SearchOptions, {k: v for k, v in table.items() if k != "space"}, "search")
    raw = table.get("space", {})
    fields = _fields(raw) if isinstance(raw, Mapping) else {}
    if not isinstance(raw, Mapping):
        problem = f"[search] space = {as_written(raw)} is not a table."
        resolver.wrong("search.space", problem, "write [search.space], and below it fields.")
    elif not fields:
        hint = "name at least one field with a range or choices."
        resolver.wrong("search", "[search.space] is empty.", hint)
    ranges = _own_ranges(resolver, fields) if {} in fields.values() else {}
    space = {dotted: _choice(dotted, value, resolver, ranges) for dotted, value in fields.items()}
    good = {dotted: choice for dotted, choice in space.items() if choice is not None}
    if options is None or len(good) < len(space) or not good:
        return None
    if options.sampler == "cmaes":
        _check_ranges(good, resolver)
    return Search(**vars(options), space=good)


def _check_ranges(space: Mapping[str, Choice], resolver: Resolver) -> None:
    """Note what CMA-ES cannot search: it moves a normal distribution over ranges, two or more."""
    choices = [dotted for dotted, choice in space.items() if not isinstance(choice, Range)]
    if choices:
        problem = f"[search] sampler = 'cmaes' does not choose from lists, as {choices[0]} is one."
        resolver.wrong("search.sampler", problem, "give ranges, or take sampler = 'tpe'.")
    elif len(space) < 2:
        problem = "[search] sampler = 'cmaes' needs two ranges or more."
        resolver.wrong("search.sampler", problem, "give another range, or take sampler = 'tpe'.")


def _axes(block: Any, resolver: Resolver) -> list[list[dict[str, Any]]]:
    """Return the axes of a block, each a list of tables by dotted field; one empty axis after a mistake."""
    lists = flat(block) if isinstance(block, Mapping) else {}
    if not isinstance(block, Mapping):
        problem = f"grid = {as_written(block)} is not a table."
        resolver.wrong("grid", problem, "write [grid], and below it fields with lists of values.")
        return [[]]
    if not lists:
        hint = "name fields with lists of values, or leave [grid] out."
        resolver.wrong("grid", "[grid] is empty.", hint)
        return [[]]
    rows = lists.pop(TOGETHER, None)
    joint = [] if rows is None else [_joint_axis(rows, lists, resolver)]
    are_axes = [_is_axis(*axis, resolver) for axis in lists.items()]  # a list: so that all are reported
    if not all([*joint, *are_axes]):
        return [[]]
    return [*joint, *([{dotted: value} for value in values] for dotted, values in lists.items())]


def _joint_axis(rows: Any, lists: Mapping[str, Any], resolver: Resolver) -> list[dict[str, Any]]:
    """Return the fields of each table of `together`; an empty list after a mistake."""
    where = f"grid.{TOGETHER}"
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) and row for row in rows):
        problem = f"[grid] {TOGETHER} = {as_written(rows)} is not a list of tables."
        resolver.wrong(where, problem, f"write {TOGETHER} = [{{ teacher = '...', student = '...' }}, ...].")
        return []
    tables = [flat(row) for row in rows]
    for dotted in dict.fromkeys(dotted for table in tables for dotted in table):
        if dotted in lists:
            problem = f"[grid] has {dotted} both in {TOGETHER} and as a list of its own."
            resolver.wrong(where, problem, "leave one of them out.")
            return []
        if not _is_field(dotted, where, resolver):
            return []
    return tables


def _is_field(dotted: str, where: str, resolver: Resolver) -> bool:
    if dotted.partition(".")[0] in SECTIONS:
        return True
    resolver.wrong(where, f"[grid] {dotted} is not a field of a run.", _where_it_belongs(dotted, resolver))
    return False


def _is_axis(dotted: str, values: Any, resolver: Resolver) -> bool:
    if not _is_field(dotted, f"grid.{dotted}", resolver):
        return False
    if not isinstance(values, list) or not values:
        problem = f"[grid] {dotted} = {as_written(values)} has no list of values."
        resolver.wrong(f"grid.{dotted}", problem, "write a list with at least one value.")
        return False
    return True


def _fields(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what is searched by dotted field; {} and tables with an end of a range are kept whole."""
    fields: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value and not {"low", "high"} & set(value):
            fields.update(_fields(value, f"{prefix}{key}."))
        else:
            fields[f"{prefix}{key}"] = value
    return fields


def _choice(dotted: str, value: Any, resolver: Resolver, ranges: Mapping[str, Range]) -> Choice | None:
    where = f"search.space.{dotted}"
    if dotted.partition(".")[0] not in SECTIONS:
        problem = f"[search.space] {dotted} is not a field of a run."
        resolver.wrong(where, problem, _where_it_belongs(dotted, resolver))
    elif isinstance(value, list) and value:
        return tuple(value)
    elif value == {} and dotted in ranges:
        return ranges[dotted]
    elif value == {}:
        known = ", ".join(ranges) or "none"
        hint = f"write {{ low = ..., high = ... }}. Fields with a range of their own here: {known}."
        resolver.wrong(where, f"[search.space] {dotted} has no range of its own.", hint)
    elif isinstance(value, Mapping):
        return _range(value, resolver, where)
    else:
        problem = f"[search.space] {dotted} = {as_written(value)} is neither a range nor a list of choices."
        resolver.wrong(where, problem, "write { low = 0.001, high = 0.1, log = true } or a list.")
    return None


def _range(table: Mapping[str, Any], resolver: Resolver, where: str) -> Range | None:
    found = resolver.record(Range, table, where)
    if found is None or (found.low < found.high and (found.low > 0 or not found.log)):
        return found
    problem = f"[{where}] low = {found.low}, high = {found.high} is no range."
    resolver.wrong(where, problem, "low < high; log needs low > 0.")
    return None


def _where_it_belongs(dotted: str, resolver: Resolver) -> str:
    if found := fields_called(dotted, resolver.catalog):
        return f"write {' or '.join(found)}."
    return f"fields start with one of: {', '.join(SECTIONS)}. Seeds go into `seeds`."


def _own_ranges(resolver: Resolver, fields: Mapping[str, Any]) -> dict[str, Range]:
    """Return the ranges that options declare with `tunable`, of the plug-ins that may be picked.

    Where those that a search chooses from do not agree on the range of an option, it has none.
    """
    tree = resolver.merged.tree
    ranges: dict[str, Range] = {}
    for section, kind in PLUGIN_SECTIONS.items():
        chosen = fields.get(f"{section}.{NAME}", fields.get(section))
        names = chosen if isinstance(chosen, list) else [look_up(tree, f"{section}.{NAME}")]
        each = [_tunable(resolver, kind, section, name or default_name(section, tree)) for name in names]
        for dotted in dict.fromkeys(dotted for own in each for dotted in own):
            first, *others = dict.fromkeys(own[dotted] for own in each if dotted in own)
            if not others:
                ranges[dotted] = first
    return ranges


def _tunable(resolver: Resolver, kind: str, dotted: str, name: Any) -> dict[str, Range]:
    entry = resolver.catalog[kind].find(name) if isinstance(name, str) else None
    ranges: dict[str, Range] = {}
    for item in dataclasses.fields(entry.config) if entry else ():
        inner = f"{dotted}.{item.name}"
        if RANGE in item.metadata:
            ranges[inner] = item.metadata[RANGE]
        if COMPONENT in item.metadata:
            picked = look_up(resolver.merged.tree, f"{inner}.{NAME}") or item.metadata[COMPONENT_DEFAULT]
            ranges |= _tunable(resolver, item.metadata[COMPONENT], inner, picked)
    return ranges
