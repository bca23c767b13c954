"""Rows in another order: by one of the columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kdctl.errors import UsageError, suggestion
from kdctl.registry import folded
from kdctl.report.table_format import Cell, Table


def sort_rows(table: Table, name: str, *, descending: bool = False) -> Table:
    """Return the table with its rows sorted by a column; rows without a value there come last.

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

    rows = [row for row in table.rows if row[column].values[part] is not None]
    empty = [row for row in table.rows if row[column].values[part] is None]
    ordered = sorted(rows, key=key, reverse=descending)
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
