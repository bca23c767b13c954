"""What a table is, and what a table format must offer."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kdctl.errors import UsageError, suggestion
from kdctl.registry import Registry, folded

Number = float | int | bool | str | None
"""A raw value of a cell, as CSV and JSON write it."""


class Mark(enum.StrEnum):
    """How a cell stands among those that it may be compared with, by test and never by looking."""

    NONE = ""
    BEST = "best"
    """The best, or not to be told from it: printed bold."""
    SECOND = "second"
    """The next, or not to be told from it: underlined."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column as readers see it; raw formats write each of its parts as a column."""

    title: str
    parts: tuple[str, ...]
    """Names of the raw values in each cell: ('top1_mean', 'top1_std')."""
    align: Literal["left", "right", "plus-minus"] = "right"
    """'plus-minus': the ± signs stand below each other."""
    group: str = ""
    """Title over several neighbouring columns; empty for none."""
    identifies: bool = False
    """Whether it says what a row is about: where columns are folded, it is repeated."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell."""

    text: str
    """What readers see."""
    values: tuple[Number, ...]
    """What programs get: one value for each part of the column."""
    mark: Mark = Mark.NONE


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, ready for any format."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """Sentences that belong below it, in every format that has room for them."""
    rules: tuple[int, ...] = ()
    """Rows with a line above them: where methods begin, where the teacher stands."""

    def records(self) -> list[dict[str, Number]]:
        """Return each row as its raw values by part; a column with marks has them in a part of their own."""
        marked = [any(row[place].mark for row in self.rows) for place in range(len(self.columns))]
        return [
            {
                part: value
                for column, cell, has_marks in zip(self.columns, row, marked, strict=True)
                for part, value in _raw(column, cell, has_marks=has_marks)
            }
            for row in self.rows
        ]


def _raw(column: Column, cell: Cell, *, has_marks: bool) -> Iterator[tuple[str, Number]]:
    yield from zip(column.parts, cell.values, strict=True)
    if has_marks:
        yield f"{column.parts[0].removesuffix('_mean')}_mark", cell.mark.value or None


report_formats: Registry[Callable[[Table], str]] = Registry("table format", "kdctl.report.formats")
"""Functions that write a table as text, ending in a newline."""


def folded_columns(table: Table, width: int, measure: Callable[[Table], int]) -> Iterator[Table]:
    """Yield the table in parts that fit, each with the columns that say what a row is about.

    Args:
        table: any table.
        width: letters in a line.
        measure: returns how many letters wide a part is printed.

    After the first part, these are only as many as tell the rows apart. A column that does not fit beside
    those comes alone with them.
    """
    keys = [place for place, column in enumerate(table.columns) if column.identifies]
    rest = [place for place in range(len(table.columns)) if place not in keys]
    fewest, chosen = _fewest(table, keys), list[int]()
    for place in rest:
        is_full = measure(_part(table, [*keys, *chosen, place])) > width
        if is_full and (chosen or len(fewest) < len(keys)):
            yield _part(table, [*keys, *chosen])
            keys, chosen = fewest, []
        chosen.append(place)
    yield _part(table, [*keys, *chosen])


def _fewest(table: Table, keys: Sequence[int]) -> list[int]:
    """Return the columns among `keys`, the left ones first, without which rows would look alike."""

    def num_told_apart(places: Sequence[int]) -> int:
        return len({tuple(row[place].text for place in places) for row in table.rows})

    kept = list(keys)
    for place in reversed(keys):
        rest = [other for other in kept if other != place]
        if rest and num_told_apart(rest) == num_told_apart(keys):
            kept = rest
    return kept


def _part(table: Table, places: list[int]) -> Table:
    return dataclasses.replace(
        table,
        columns=tuple(table.columns[place] for place in places),
        rows=tuple(tuple(row[place] for place in places) for row in table.rows),
    )


def sort_rows(table: Table, name: str, *, descending: bool = False) -> Table:
    """Return the table with its rows sorted by a column; rows without a value there, or with NaN, come last.

    Args:
        table: any table.
        name: of a column as raw formats have it ('top1_mean', or 'top1' for short), or its title.
        descending: the largest first.

    Raises:
        UsageError: there is no such column.
    """
    column, part = _find(table, name)

    def key(row: Sequence[Cell]) -> tuple[bool, float, str]:
        value = row[column].values[part]
        is_number = isinstance(value, (int, float))
        return not is_number, float(value) if is_number else 0.0, "" if is_number else str(value)

    def is_known(row: Sequence[Cell]) -> bool:
        value = row[column].values[part]
        return value is not None and not (isinstance(value, float) and math.isnan(value))

    ordered = sorted(filter(is_known, table.rows), key=key, reverse=descending)
    empty = [row for row in table.rows if not is_known(row)]
    return dataclasses.replace(table, rows=(*ordered, *empty), rules=())


def _find(table: Table, name: str) -> tuple[int, int]:
    """Return the place of a column, and of the raw value in its cells."""
    known: dict[str, tuple[int, int]] = {}
    for place, column in enumerate(table.columns):
        for number, part in enumerate(column.parts):
            known.setdefault(part, (place, number))
            known.setdefault(part.removesuffix("_mean"), (place, number))
        known.setdefault(folded(column.title), (place, 0))
    for spelling in (name, folded(name)):
        if spelling in known:
            return known[spelling]
    shown = {part.removesuffix("_mean") for column in table.columns for part in column.parts}
    raise UsageError(f"no column of the table is called '{name}'.", suggestion(name, shown, "Columns"))
