"""From groups of replicates to a table with its caption and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdctl.records import RunState
from kdctl.report.fields import known_fields, read_field, show_value
from kdctl.report.layout import Layout
from kdctl.report.notes import comparison_notes, reported_notes, run_notes
from kdctl.report.pivot import pivot_notes, pivot_strips
from kdctl.report.replicates import Replicates
from kdctl.report.reported import Reported, find_reported
from kdctl.report.rows import make_rows
from kdctl.report.strips import Strip, table_strips
from kdctl.report.table_format import Table
from kdctl.report.wording import SELECTION_WORDS, SPREAD_WORDS, plural


def configuration_table(
    groups: Sequence[Replicates], layout: Layout, reported: Sequence[Reported] = ()
) -> Table:
    """Return the table with one row for each group, beside its baseline and its published number."""
    known = known_fields(run.plan for group in groups for run in group.runs)
    matches = [find_reported(group, reported, known, layout.select) for group in groups]
    rows = make_rows(groups, matches, layout)
    notes = (
        *run_notes(groups, layout),
        *comparison_notes(rows, layout),
        *reported_notes(rows, reported, known),
    )
    return _table(groups, layout, table_strips(rows, layout), notes)


def pivot_table(groups: Sequence[Replicates], layout: Layout) -> Table:
    """Return the table whose cells are means, rows and columns being spanned by fields."""
    notes = (*pivot_notes(groups), *run_notes(groups, layout))
    return _table(groups, layout, pivot_strips(groups, layout), notes)


def _table(
    groups: Sequence[Replicates], layout: Layout, strips: Sequence[Strip], notes: tuple[str, ...]
) -> Table:
    return Table(
        caption=_caption([run.plan for group in groups for run in group.runs], layout) + _dropped(groups),
        columns=tuple(strip.column for strip in strips),
        rows=tuple(zip(*(strip.cells for strip in strips), strict=True)),
        notes=notes,
    )


def _caption(plans: Sequence[Mapping[str, Any]], layout: Layout) -> str:
    """Name what all rows share, the epoch that counts, and what stands behind the ±."""
    data, teacher, student, protocol, method = (
        None if field in layout.fields else _shared(plans, field)
        for field in ("data.name", "teachers", "student.name", "protocol", "method.name")
    )
    pair = " → ".join(name for name in (teacher, student) if name)
    what = [f"Top-1 test accuracy (%) on {data}" if data else "Top-1 test accuracy (%)"]
    what += [words for words in (method, pair, f"protocol {protocol}" if protocol else "") if words]
    return f"{', '.join(what)}; {SELECTION_WORDS[layout.select]}; mean ± {SPREAD_WORDS[layout.spread]}"


def _dropped(groups: Sequence[Replicates]) -> str:
    """Say how many rows have fewer seeds because of what the first ones showed; the notes may get lost."""
    dropped = sum(RunState.PRUNED in group.lost for group in groups)
    return f"; {dropped} of {plural(len(groups), 'configuration')} dropped early" if dropped else ""


def _shared(plans: Sequence[Mapping[str, Any]], field: str) -> str | None:
    """Return the value of all plans that have one, if it is the same."""
    values = {read_field(plan, field) for plan in plans} - {None}
    return show_value(values.pop()) if len(values) == 1 else None
