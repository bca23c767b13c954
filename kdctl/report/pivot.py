"""The columns of a table in which fields span rows and columns and each cell is a mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdctl.report.layout import Layout
from kdctl.report.replicates import Replicates, Value, in_table_order
from kdctl.report.strips import (
    SPREAD_PARTS,
    Strip,
    count_text,
    field_strip,
    lost_counts,
    lost_parts,
    mean_cell,
)
from kdctl.report.table_format import Cell, Column
from kdctl.report.wording import NOTHING, setting

Place = tuple[tuple[Value, ...], tuple[Value, ...]]
"""Values of the row fields, values of the column fields."""


def pivot_strips(groups: Sequence[Replicates], layout: Layout) -> list[Strip]:
    """Return the row fields, then a column for each combination of the column fields' values."""
    num_row_fields = len(layout.rows)
    at: dict[Place, Replicates] = {
        (group.values[:num_row_fields], group.values[num_row_fields:]): group for group in groups
    }
    rows = list(dict.fromkeys(in_table_order([row for row, _ in at])))
    heads = list(dict.fromkeys(in_table_order([head for _, head in at])))
    lost = lost_parts(groups)
    show_counts = not _have_equal_counts(groups)
    return [
        *(field_strip(layout.names[place], [row[place] for row in rows]) for place in range(num_row_fields)),
        *(
            Strip(
                column=_column(head, layout, lost),
                cells=tuple(
                    _cell(at.get((row, head)), layout, lost, show_counts=show_counts) for row in rows
                ),
            )
            for head in heads
        ),
    ]


def pivot_notes(groups: Sequence[Replicates]) -> Iterator[str]:
    """Give n: once when it is the same everywhere, else say where it is found."""
    if _have_equal_counts(groups):
        yield f"n = {len(groups[0].counted)} in every cell."
    else:
        yield "n in brackets."


def _have_equal_counts(groups: Sequence[Replicates]) -> bool:
    return len({count_text(group) for group in groups}) == 1 and len(groups[0].counted) == len(groups[0].runs)


def _column(head: tuple[Value, ...], layout: Layout, lost: Sequence[str]) -> Column:
    num_row_fields = len(layout.rows)
    names = layout.names[num_row_fields:]
    text = ", ".join(map(setting, head, layout.columns, names))
    stem = text.replace(", ", "_").replace(" ", "_")
    parts = ("mean", SPREAD_PARTS[layout.spread], "n", *lost)
    return Column(title=text, parts=tuple(f"{stem}_{part}" for part in parts), align="plus-minus")


def _cell(group: Replicates | None, layout: Layout, lost: Sequence[str], *, show_counts: bool) -> Cell:
    if group is None:
        return Cell(text=NOTHING, values=(None,) * (3 + len(lost)))
    cell = mean_cell(group.summary, layout.spread)
    text = f"{cell.text} ({count_text(group)})" if show_counts else cell.text
    return Cell(text=text, values=(*cell.values, len(group.counted), *lost_counts(group, lost)))
