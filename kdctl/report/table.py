"""From groups of replicates to a table with its caption and notes."""

from __future__ import annotations

from collections.abc import Sequence

from kdctl.report.caption import caption
from kdctl.report.cells import FilledColumn
from kdctl.report.columns import table_columns
from kdctl.report.fields import known_fields
from kdctl.report.layout import Layout
from kdctl.report.notes import comparison_notes, reported_notes, run_notes
from kdctl.report.pivot import pivot_columns, pivot_notes
from kdctl.report.replicates import Replicates
from kdctl.report.reported import Reported, find_reported
from kdctl.report.rows import make_rows
from kdctl.report.table_format import Table


def configuration_table(
    groups: Sequence[Replicates], layout: Layout, reported: Sequence[Reported] = ()
) -> Table:
    """Return the table with one row for each group, beside its baseline and its published number."""
    known = known_fields(run.plan for group in groups for run in group.runs)
    matches = [find_reported(group, reported, known, layout) for group in groups]
    rows = make_rows(groups, matches, layout)
    beside = (
        ()
        if layout.values
        else (*comparison_notes(rows, layout), *reported_notes(rows, reported, known, layout))
    )
    notes = (*run_notes(groups, layout), *beside)
    return filled_table(groups, layout, table_columns(rows, layout), notes)


def pivot_table(groups: Sequence[Replicates], layout: Layout) -> Table:
    """Return the table whose cells are means, rows and columns being spanned by fields."""
    notes = (*pivot_notes(groups), *run_notes(groups, layout))
    return filled_table(groups, layout, pivot_columns(groups, layout), notes)


def filled_table(
    groups: Sequence[Replicates],
    layout: Layout,
    columns: Sequence[FilledColumn],
    notes: Sequence[str],
    *,
    rules: tuple[int, ...] = (),
) -> Table:
    """Return the table of columns, under the caption that its groups need."""
    return Table(
        caption=caption(groups, layout),
        columns=tuple(filled.column for filled in columns),
        rows=tuple(zip(*(filled.cells for filled in columns), strict=True)),
        notes=tuple(notes),
        rules=rules,
    )
