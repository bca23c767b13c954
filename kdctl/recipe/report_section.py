"""What a recipe says about its report: `[report]`, and `[[reported]]` numbers of others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from kdctl.recipe.layers import Layer, Tree, flat, look_up, merge, same
from kdctl.recipe.load import toml_value
from kdctl.recipe.resolve import Resolver
from kdctl.recipe.space import Point
from kdctl.recipe.values_in_toml import as_written
from kdctl.records import Selection
from kdctl.text import plural

CELL = re.compile(
    r"(?P<top1>(0|[1-9]\d*)(\.\d+)?)( ?(±|\+-) ?(?P<std>(0|[1-9]\d*)(\.\d+)?))?"
    r"( \(n = (?P<num_trials>[1-9]\d*)\))?",
    re.ASCII,
)
"""A number as a paper prints it: '75.52', '75.52 ± 0.18', '75.52 ± 0.18 (n = 3)'."""

_TASK = ("data", "student", "teacher")
"""Sections by whose names a number is told from those of other tasks."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The `[report]` table: how the table of a sweep is laid out unless the command line says so."""

    rows: tuple[str, ...] = ()
    """Fields that make a row; none: those that tell the configurations apart."""
    columns: tuple[str, ...] = ()
    """Fields that are spread over columns."""
    select: Selection = Selection.LAST
    """Which epoch counts."""
    layout: str = "list"
    """Kind of table: what `kdctl report --layout` takes."""
    values: tuple[str, ...] = ()
    """What the cells tell, as top1, top5, loss; none: the accuracy, and what it is compared with."""
    best_by: Literal["val", "test"] | None = None
    """Split on which the best setting of each cell is chosen; None: all settings are shown."""
    mark_best: bool = False
    """Whether the best is bold and the second underlined, where a test tells them from the others."""
    page: bool = False
    """Whether a sweep that is complete ends with its table, and writes its curves and the HTML page into
    `reports/` below the runs."""
    intervals: bool = False
    """Whether half the 95 % confidence interval stands behind each difference."""
    versus_best: bool = False
    """Whether each row is also compared with the best one of its student."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is said alike of one number and of a whole table of them."""

    num_trials: Annotated[int, Gt(0)] | None = None
    """How many runs stand behind it; None: the source does not say."""
    select: Selection | None = None
    """Which epoch was taken; None: the source does not say."""
    protocol: Annotated[str, MinLen(1)] | None = None
    """Under which training preset; None: the source does not say."""
    epochs: Annotated[int, Gt(0)] | None = None
    """How long was trained; None: as long as the protocol's preset says, if there is one."""
    label: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportedNumber(Published):
    """One `[[reported]]` table: a number that others published, and the rows it stands beside."""

    match: Mapping[str, Any]
    """Fields and values that a row must have."""
    top1: Annotated[float, Ge(0), Le(100)]
    """Test accuracy in percent."""
    std: Annotated[float, Ge(0), Le(100)] | None = None
    """In percent points; None: the source does not say."""

    def __post_init__(self) -> None:
        """Refuse a spread of one number."""
        if self.std is not None and self.num_trials == 1:
            raise ValueError("std is given, but num_trials = 1, and one number has no spread")


@dataclass(frozen=True, kw_only=True)
class ReportedTable(Published):
    """A `[[reported]]` table with `rows`: many numbers, written as a paper's table is."""

    rows: Mapping[str, Any]
    """Field -> value -> its numbers, one for each column (a single one need be no list): `CELL`s, bare
    numbers, or '' where the paper has none."""
    columns: Annotated[tuple[Mapping[str, Any], ...], MinLen(1)] = ({},)
    """Fields and values that each column stands for, left to right."""
    match: Mapping[str, Any] | None = None
    """Fields and values that hold for all of the numbers."""


def reported_numbers(tables: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the `[[reported]]` tables of a recipe that was checked, tables with `rows` number by number."""
    for table in tables:
        yield from _numbers_of(table) if "rows" in table else (table,)


def numbers_of_their_task(layers: Sequence[Layer], tree: Tree, points: Sequence[Point]) -> list[Any]:
    """Return the `[[reported]]` tables of a merged recipe; they say what they are about where it was changed.

    A number that names no teacher is about that of the recipe which holds it. `-o teacher=...`, and a recipe
    that extends that one, have others: the number says nothing of these.

    Args:
        layers: of the recipe, lowest first.
        tree: all of them merged, and checked.
        points: of its grid or search.
    """
    holder = max(place for place, layer in enumerate(layers) if "reported" in layer.values)
    own = merge(layers[: holder + 1]).tree
    spread = {part for axes in _spaces(own) for dotted in axes for part in dotted.split(".")}
    changed: dict[str, Any] = {}
    for section in _TASK:
        field = f"{section}.name"
        name = look_up(own, field)
        found = [look_up(tree, field), *(look_up(point.layer("").values, field) for point in points)]
        if name is not None and section not in spread and any(not same(name, it) for it in found if it):
            changed[section] = name
    return (
        [_about(number, changed) for number in reported_numbers(tree["reported"])]
        if changed
        else tree["reported"]
    )


def check_reporting(resolver: Resolver) -> None:
    """Note what is wrong with `[report]` and `[[reported]]`."""
    tree = resolver.merged.tree
    resolver.record(ReportOptions, tree.get("report"), "report")
    tables = tree.get("reported", [])
    if not isinstance(tables, list):
        resolver.wrong("reported", "reported is not a list of tables.", "write it as [[reported]].")
        return
    for number, table in enumerate(tables, start=1):
        where = f"reported.{number}"
        if not isinstance(table, Mapping):
            problem = f"{where} = {as_written(table)} is not a table."
            resolver.wrong(where, problem, "write it as [[reported]].")
        elif "rows" not in table:
            resolver.record(ReportedNumber, table, where)
        elif (found := resolver.record(ReportedTable, table, where)) is not None:
            _check_rows(found, where, resolver)


def _check_rows(table: ReportedTable, where: str, resolver: Resolver) -> None:
    as_rows = "write rows.<field>.<value> = [...], such as rows.method.kd = [74.42]."
    rows = list(_rows(table.rows))
    if not rows:
        resolver.wrong(where, f"[{where}] rows has no row.", as_rows)
    for path, cells in rows:
        row = f"[{where}] rows.{'.'.join(path)}"
        if len(path) < 2:
            resolver.wrong(where, f"{row} names no field and its value.", as_rows)
        elif len(cells) != len(table.columns):
            problem = f"{row} has {plural(len(cells), 'number')} for {plural(len(table.columns), 'column')}."
            resolver.wrong(where, problem, "write '' where the source has no number.")
        for cell in cells:
            if wrong := _wrong_with(cell, table):
                resolver.wrong(where, f"{row} has {as_written(cell)}, {wrong[0]}.", wrong[1])


def _wrong_with(cell: Any, table: ReportedTable) -> tuple[str, str] | None:
    """Return what is wrong with a cell, and a hint."""
    said = _read_cell(cell)
    if said is None:
        return "which is no number", "write 75.52, '75.52 ± 0.18', '75.52 ± 0.18 (n = 3)', or '' for none."
    if max(said.get("top1", 0), said.get("std", 0)) > 100:
        return "which is more than 100 %", "write accuracies in percent, 75.52, or '' for none."
    if "std" in said and said.get("num_trials", table.num_trials) == 1:
        return "but num_trials = 1, and one number has no spread", "leave out ±, or mend n."
    return None


def _spaces(tree: Tree) -> Iterator[Iterable[str]]:
    """Yield the dotted fields of each block of a grid, and of a search."""
    grid = tree.get("grid", [])
    blocks = [*(grid if isinstance(grid, list) else [grid]), tree.get("search", {}).get("space", {})]
    for block in blocks:
        yield flat(block)
        yield from (flat(tied) for tied in block.get("together", ()))


def _about(number: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return a number whose match has also the `names` of sections of which it says nothing."""
    match = flat(number["match"])
    said = {part for dotted in match for part in dotted.split(".")}
    said |= {"teacher"} if "teachers" in said or "ce" in match.values() else set()  # `ce` has no teacher
    return {**number, "match": {**number["match"], **{k: v for k, v in names.items() if k not in said}}}


def _numbers_of(table: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    shared = {key: value for key, value in table.items() if key not in ("rows", "columns", "match")}
    for (*field, value), cells in _rows(table["rows"]):
        read = toml_value(value)
        row, label = {".".join(field): read}, value
        if not isinstance(read, str):  # a number alone does not say of what it is
            label = f"{field[-1].replace('_', ' ')} {value}"
        for column, cell in zip(table.get("columns", [{}]), cells, strict=True):
            if number := _read_cell(cell):
                match = {**table.get("match", {}), **column, **row}
                yield {"label": label, **shared, **number, "match": match}


def _rows(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yield the way to each row, field and value, with its cells. A value may hold dots ('0.05')."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _rows(value, (*path, key))
        else:
            yield (*path, key), value if isinstance(value, list) else [value]


def _read_cell(cell: Any) -> dict[str, Any] | None:
    """Return what a cell says of its number; {} for an empty one, None for one that cannot be read."""
    if cell == "":
        return {}
    is_number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    found = CELL.fullmatch(str(cell)) if is_number or isinstance(cell, str) else None
    said = found.groupdict() if found else {}
    return {key: toml_value(text) for key, text in said.items() if text is not None} if found else None
