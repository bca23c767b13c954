"""From groups of replicates to a table with its caption and notes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdctl.records import RunState
from kdctl.report.cells import FilledColumn
from kdctl.report.columns import table_columns
from kdctl.report.comparison_notes import comparison_notes, reported_notes
from kdctl.report.fields import known_fields, read_field
from kdctl.report.layout import Layout
from kdctl.report.notes import run_notes, teacher_fact_notes
from kdctl.report.pivot import pivot_columns, pivot_notes
from kdctl.report.replicates import Replicates
from kdctl.report.reported import Reported, find_reported
from kdctl.report.rows import make_rows
from kdctl.report.subject import SUBJECT_FIELDS, data_words, shared_words
from kdctl.report.table_format import Column, Table
from kdctl.report.wording import SELECTION_WORDS, SPREAD_WORDS
from kdctl.text import plural

BEST_BY_WORDS = {
    "val": "best setting of each chosen on validation accuracy",
    "test": "best setting of each chosen on the test set (oracle)",
}


def caption(groups: Sequence[Replicates], layout: Layout) -> str:
    """Name what all rows share, the epoch that counts, and what stands behind the ±.

    Data come with the classes and images that were used; what rows differ in stands in their own cells.
    """
    plans = [plan for group in groups for plan in group.plans]
    chosen = [BEST_BY_WORDS[layout.best_by]] if layout.best_by else []
    dropped = sum(RunState.PRUNED in group.lost for group in groups)
    lost = [f"{dropped} of {plural(len(groups), 'configuration')} dropped early"] if dropped else []
    spread = f"mean ± {SPREAD_WORDS[layout.spread]}"
    return "; ".join(
        [what_is_shown(plans, layout, layout.fields), SELECTION_WORDS[layout.select], *chosen, spread, *lost]
    )


def what_is_shown(plans: Sequence[Mapping[str, Any]], layout: Layout, shown: Sequence[str]) -> str:
    """Name the values that are told, the data and what else all plans share.

    Args:
        plans: of all runs of the table.
        layout: which values are told.
        shown: fields that have columns of their own.
    """
    shared = shared_words(plans, but=shown)
    words = (shared.method, shared.pair, shared.protocol, shared.length)
    return ", ".join([_what_and_data(plans, layout, shown), *filter(None, words)])


def _what_and_data(plans: Sequence[Mapping[str, Any]], layout: Layout, shown: Sequence[str]) -> str:
    titles = ", ".join(measure.title for measure in layout.values) or "Top-1 test accuracy (%)"
    shared = [field for field in SUBJECT_FIELDS if field not in shown and _is_shared(plans, field)]
    data = data_words(plans[0], shared, layout.totals if _is_shared(plans, "data.name") else {})
    return f"{titles[0].upper()}{titles[1:]}" + (f" on {data}" if data else "")


def _is_shared(plans: Sequence[Mapping[str, Any]], field: str) -> bool:
    return len({read_field(plan, field) for plan in plans}) == 1


def configuration_table(
    groups: Sequence[Replicates], layout: Layout, reported: Sequence[Reported] = ()
) -> Table:
    """Return the table with one row for each group, beside its baseline and its published number."""
    known = known_fields(plan for group in groups for plan in group.plans)
    matches = [find_reported(group, reported, known, layout) for group in groups]
    rows = make_rows(groups, matches, layout)
    beside = (
        ()
        if layout.values
        else (*comparison_notes(rows, layout), *reported_notes(rows, reported, known, layout))
    )
    columns = table_columns(rows, layout)
    shown = [part for filled in columns for part in filled.column.parts]
    notes = (*run_notes(groups, layout), *teacher_fact_notes(groups, shown), *beside)
    return filled_table(groups, layout, columns, notes)


def pivot_table(groups: Sequence[Replicates], layout: Layout) -> Table:
    """Return the table whose cells are means, rows and columns being spanned by fields."""
    notes = (*pivot_notes(groups, layout), *run_notes(groups, layout))
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
        columns=_with_own_parts(filled.column for filled in columns),
        rows=tuple(zip(*(filled.cells for filled in columns), strict=True)),
        notes=tuple(notes),
        rules=rules,
    )


def _with_own_parts(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Number the raw columns that would go by one name: titles may differ only in letters that names lack."""
    uses: Counter[str] = Counter()
    told: list[Column] = []
    for column in columns:
        uses.update(column.parts)
        parts = tuple(part if uses[part] == 1 else f"{part}_{uses[part]}" for part in column.parts)
        told.append(dataclasses.replace(column, parts=parts))
    return tuple(told)
