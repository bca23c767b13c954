"""The columns of a table in which fields span rows and columns and each cell is a mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdctl.report.cells import (
    FilledColumn,
    condition_parts,
    conditions,
    count_text,
    field_column,
    known_part,
    mean_cell,
    mean_parts,
    num_known,
    num_values,
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
    for place, measure in enumerate(measures):
        alone = len(measures) == 1
        above = group if alone else f"{group} {head}".strip()
        known, counts = known_part(groups, layout, measure), () if place else ("n", *condition)
        parts = (*_mean_parts(measure, layout, alone=alone), *known, *counts)
        columns.append(
            FilledColumn(
                column=Column(
                    title=head if alone else measure.title,
                    parts=tuple(f"{stem}_{part}" for part in parts),
                    align="plus-minus",
                    group=above,
                ),
                cells=tuple(
                    Cell(text=NOTHING, values=(None,) * len(parts))
                    if group is None
                    else _cell(group, layout, measure, known, counts, show_counts=show_counts)
                    for group in groups
                ),
            )
        )
    return columns


def pivot_notes(groups: Sequence[Replicates], layout: Layout) -> Iterator[str]:
    """Give n: once when it is the same everywhere, else say where it is found."""
    if have_equal_counts(groups):
        own = any(known_part(groups, layout, measure) for measure in layout.values)
        yield f"n = {len(groups[0].counted)} in every cell{' that names no other' if own else ''}."
    else:
        yield "n in brackets."


def have_equal_counts(groups: Sequence[Replicates]) -> bool:
    """Whether the same number of runs, and all that were planned, stand behind each mean."""
    return len({count_text(group) for group in groups}) == 1 and len(groups[0].counted) == len(groups[0].runs)


def head_text(head: Values, fields: Sequence[str], names: Sequence[str]) -> str:
    """Word the head of a column: 'kd, learning rate 0.05'."""
    return ", ".join(map(setting, head, fields, names))


def _mean_parts(measure: Measure, layout: Layout, *, alone: bool) -> tuple[str, str]:
    """Return the names of mean and spread; the accuracy needs none where it is all there is."""
    mean, spread = mean_parts(measure, layout.spread)
    is_plain = alone and measure is TOP1
    return (mean.removeprefix("top1_"), spread.removeprefix("top1_")) if is_plain else (mean, spread)


def _cell(
    group: Replicates,
    layout: Layout,
    measure: Measure,
    known: Sequence[str],
    counts: Sequence[str],
    *,
    show_counts: bool,
) -> Cell:
    """Return a mean with its spread, then for each of `known` and of `counts` what that tells of it."""
    cell, number = mean_cell(group, layout, measure), num_known(group, layout, measure)
    count = f"n = {number}" if number else count_text(group) if show_counts and counts else ""
    _, *condition = counts or ("",)
    told = (len(group.counted), *conditions(group, condition)) if counts else ()
    values = (*cell.values, *(num_values(group, layout, measure) for _ in known), *told)
    return Cell(text=f"{cell.text} ({count})" if count else cell.text, values=values, mark=cell.mark)
