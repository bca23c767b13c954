"""Tables that are too wide for a terminal: columns below each other, never words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from kdctl.report.table_format import Table


def folded_columns(table: Table, width: int, measure: Callable[[Table], int]) -> Iterator[Table]:
    """Yield the table in parts that fit, each with the columns that say what a row is about.

    Args:
        table: any table.
        width: letters in a line.
        measure: returns how many letters wide a part is printed.

    A column that does not fit beside them comes alone with them.
    """
    keys = [place for place, column in enumerate(table.columns) if column.identifies]
    rest = [place for place in range(len(table.columns)) if place not in keys]
    chosen: list[int] = []
    for place in rest:
        if chosen and measure(_part(table, [*keys, *chosen, place])) > width:
            yield _part(table, [*keys, *chosen])
            chosen = []
        chosen.append(place)
    yield _part(table, [*keys, *chosen])


def _part(table: Table, places: list[int]) -> Table:
    return dataclasses.replace(
        table,
        columns=tuple(table.columns[place] for place in places),
        rows=tuple(tuple(row[place] for place in places) for row in table.rows),
    )
