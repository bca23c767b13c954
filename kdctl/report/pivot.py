"""The columns of a table in which fields span rows and columns and each cell is a mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdctl.report.cells import (
    FilledColumn,
    condition_parts,
    conditions,
    count_text,
    field_column,
    mean_cell,
    mean_parts,
)
from kdctl.report.layout import Layout
from kdctl.report.measures import TOP1, Measure
from kdctl.report.replicates import Replicates, Value, in_table_order
from kdctl.report.table_format import Cell, Column
from kdctl.report.wording import NOTHING, setting

Values = tuple[Value, ...]
Place = tuple[Values, Values]
"""Values of the row fields, values of the column fields."""


def pivot_columns(groups: Sequence[Replicates], layout: Layout) -> list[FilledColumn]:
    """Return the row fields, then a column for each combination of the column fields' values."""
    num_row_fields = len(layout.rows)
    at: dict[Place, Replicates] = {
        (group.values[:num_row_fields], group.values[num_row_fields:]): group for group in groups
    }
    rows = list(dict.fromkeys(in_table_order([row for row, _ in at])))
    heads = list(dict.fromkeys(in_table_order([head for _, head in at])))
    fields = [
        field_column(layout.names[place], [row[place] for row in rows]) for place in range(num_row_fields)
    ]
    return [
        *fields,
        *(
            column
            for head in heads
            for column in cell_columns(
                [at.get((row, head)) for row in rows],
                head_text(head, layout.columns, layout.names[num_row_fields:]),
                layout,
                condition=condition_parts(groups),
                show_counts=not have_equal_counts(groups),
            )
        ),
    ]


def cell_columns(
    groups: Sequence[Replicates | None],
    head: str,
    layout: Layout,
    *,
    condition: Sequence[str],
    show_counts: bool,
    group: str = "",
) -> list[FilledColumn]:
    """Return the columns below one head: one for each value that the cells tell.

    Args:
        groups: one for each row; None for an empty cell.
        head: title of the column, or of all of them.
        layout: what is told, and which spread.
        condition: raw columns that say what means lack.
        show_counts: whether each cell names its n.
        group: title above the head.
    """
    measures = layout.values or (TOP1,)
    stem = "_".join(part for part in (*group.split(), *head.replace(",", "").split()) if part.isascii())
    columns: list[FilledColumn] = []
    for measure in measures:
        alone = len(measures) == 1
        above = group if alone else f"{group} {head}".strip()
        filled = _filled(
            groups,
            Column(
                title=head if alone else measure.title,
                parts=_parts(stem, measure, layout, condition, alone=alone and measure is TOP1),
                align="plus-minus",
                group=above,
            ),
            measure,
            layout,
            condition,
            show_counts=show_counts,
        )
        columns.append(filled)
    return columns


def pivot_notes(groups: Sequence[Replicates]) -> Iterator[str]:
    """Give n: once when it is the same everywhere, else say where it is found."""
    if have_equal_counts(groups):
        yield f"n = {len(groups[0].counted)} in every cell."
    else:
        yield "n in brackets."


def have_equal_counts(groups: Sequence[Replicates]) -> bool:
    """Whether the same number of runs, and all that were planned, stand behind each mean."""
    return len({count_text(group) for group in groups}) == 1 and len(groups[0].counted) == len(groups[0].runs)


def head_text(head: Values, fields: Sequence[str], names: Sequence[str]) -> str:
    """Word the head of a column: 'kd, learning rate 0.05'."""
    return ", ".join(map(setting, head, fields, names))


def _parts(
    stem: str, measure: Measure, layout: Layout, condition: Sequence[str], *, alone: bool
) -> tuple[str, ...]:
    mean, spread = mean_parts(measure, layout.spread)
    if alone:  # the accuracy needs no name where it is all there is
        mean, spread = mean.removeprefix("top1_"), spread.removeprefix("top1_")
    counts = ("n", *condition) if alone or measure is (layout.values or (TOP1,))[0] else ()
    return tuple(f"{stem}_{part}" for part in (mean, spread, *counts))


def _filled(
    groups: Sequence[Replicates | None],
    column: Column,
    measure: Measure,
    layout: Layout,
    condition: Sequence[str],
    *,
    show_counts: bool,
) -> FilledColumn:
    has_counts = len(column.parts) > 2
    cells: list[Cell] = []
    for group in groups:
        if group is None:
            cells.append(Cell(text=NOTHING, values=(None,) * len(column.parts)))
            continue
        cell = mean_cell(group, layout, measure)
        counts = (len(group.counted), *conditions(group, condition)) if has_counts else ()
        text = f"{cell.text} ({count_text(group)})" if show_counts and has_counts else cell.text
        cells.append(Cell(text=text, values=(*cell.values, *counts), mark=cell.mark))
    return FilledColumn(column=column, cells=tuple(cells))
