"""Methods as rows, pairs of teacher and student as columns, as the tables of papers are."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdctl.report.baseline import is_baseline
from kdctl.report.cells import FilledColumn, condition_parts, field_column
from kdctl.report.fields import read_field, show_value
from kdctl.report.layout import Layout
from kdctl.report.layout_kind import BEST_FIELDS, PAIR_FIELDS, LayoutKind, Names, Plans, layouts
from kdctl.report.measures import MEASURES, TOP1, Measure, values_of
from kdctl.report.notes import run_notes, teacher_fact_notes
from kdctl.report.pivot import Values, cell_columns, have_equal_counts, pivot_notes
from kdctl.report.replicates import Replicates, in_table_order
from kdctl.report.reported import Reported
from kdctl.report.table import filled_table
from kdctl.report.table_format import Cell, Table
from kdctl.report.wording import NOTHING, rounded, setting

_TEACHER_LINE = "teacher"


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A column: who learns from whom, on what."""

    values: Values
    """Of the column fields; the teacher's is None where a student is never taught."""
    title: str
    group: str


@layouts.register("paper")
class PaperLayout(LayoutKind):
    """Methods as rows, pairs of teacher and student as columns."""

    has_room_beside = False

    def usual_fields(
        self, plans: Plans, rows: Names, columns: Names, *, choosing: bool
    ) -> tuple[Names, Names]:
        """Return the method, and the pair with what else tells columns apart."""
        rows, columns = rows or _methods(plans, choosing=choosing), columns or PAIR_FIELDS
        subject = (field for field in plans.unlike if field not in (*rows, *columns))
        return rows, (*subject, *columns)

    def table_of_means(
        self, groups: Sequence[Replicates], layout: Layout, reported: Sequence[Reported]
    ) -> Table:
        """Return the table, in which published numbers have no place."""
        return _paper_table(groups, layout)


def _methods(plans: Plans, *, choosing: bool) -> Names:
    """Return what tells methods apart, the pair of models apart from it."""
    about = [field for field in BEST_FIELDS if field in plans.apart and field not in PAIR_FIELDS]
    return ("method.name", *(field for field in about if field != "method.name" and choosing))


def _paper_table(groups: Sequence[Replicates], layout: Layout) -> Table:
    """Return the table: the students alone, a line, the methods, a line, the teachers.

    A student without a teacher stands in every column of that student.
    """
    num_rows = len(layout.rows)
    pairs = _pairs(groups, layout)
    keys = list(dict.fromkeys(in_table_order([group.values[:num_rows] for group in groups])))
    baselines = [key for key in keys if _is_baseline_row(key, groups, num_rows)]
    keys = [*baselines, *(key for key in keys if key not in baselines)]
    cells = {pair.values: [_find(groups, key, pair.values, layout) for key in keys] for pair in pairs}
    lines = [*keys, (_TEACHER_LINE, *(None,) * (num_rows - 1))]
    columns = [
        field_column(layout.names[place], [line[place] for line in lines]) for place in range(num_rows)
    ]
    condition, counts = condition_parts(groups), not have_equal_counts(groups)
    for pair in pairs:
        filled = cell_columns(
            cells[pair.values], pair.title, layout, condition=condition, show_counts=counts, group=pair.group
        )
        columns += [
            _with_teacher(column, cells[pair.values], layout, measure)
            for column, measure in zip(filled, layout.values or (TOP1,), strict=True)
        ]
    rules = tuple(dict.fromkeys(place for place in (len(baselines), len(keys)) if place))
    notes = [
        *pivot_notes(groups, layout),
        *run_notes(groups, layout),
        *teacher_fact_notes(groups, ["teacher_top1"]),
    ]
    return filled_table(groups, layout, columns, notes, rules=rules)


def _pairs(groups: Sequence[Replicates], layout: Layout) -> list[_Pair]:
    num_rows = len(layout.rows)
    found = list(dict.fromkeys(group.values[num_rows:] for group in groups))
    teachers = layout.columns.index("teachers") if "teachers" in layout.columns else None
    taught = [values for values in found if teachers is None or values[teachers] is not None]
    alone = [values for values in found if values not in taught]
    if teachers is not None:
        places = [place for place in range(len(layout.columns)) if place != teachers]
        known = {tuple(values[place] for place in places) for values in taught}
        alone = [values for values in alone if tuple(values[place] for place in places) not in known]
    ordered = list(dict.fromkeys(in_table_order([*taught, *alone])))
    names = layout.names[num_rows:]
    return [_pair(values, layout.columns, names) for values in ordered]


def _pair(values: Values, fields: Sequence[str], names: Sequence[str]) -> _Pair:
    """Name a column by its student, below its teacher and what else tells it apart."""
    student = fields.index("student.name") if "student.name" in fields else len(fields) - 1
    above = [
        f"{show_value(value)} →" if field == "teachers" else setting(value, field, name)
        for place, (value, field, name) in enumerate(zip(values, fields, names, strict=True))
        if place != student and not (field == "teachers" and value is None)
    ]
    title = setting(values[student], fields[student], names[student])
    return _Pair(values=values, title=title, group=", ".join(above))


def _is_baseline_row(key: Values, groups: Sequence[Replicates], num_rows: int) -> bool:
    return all(is_baseline(group) for group in groups if group.values[:num_rows] == key)


def _find(groups: Sequence[Replicates], key: Values, pair: Values, layout: Layout) -> Replicates | None:
    num_rows = len(layout.rows)
    for group in groups:
        if group.values[:num_rows] == key and _stands_in(group.values[num_rows:], pair, layout):
            return group
    return None


def _stands_in(values: Values, pair: Values, layout: Layout) -> bool:
    return all(
        value == wanted or (field == "teachers" and value is None)
        for field, value, wanted in zip(layout.columns, values, pair, strict=True)
    )


def _with_teacher(
    filled: FilledColumn, groups: Sequence[Replicates | None], layout: Layout, measure: Measure
) -> FilledColumn:
    """Add the teacher's line: its test accuracy, as the runs that it taught know it, and nothing else."""
    accuracies = sorted(set(_teacher_accuracies(groups, layout))) if measure is TOP1 else []
    mean = statistics.fmean(accuracies) if accuracies else None
    values = (rounded(mean), *(None,) * (len(filled.column.parts) - 1))
    cell = Cell(text=NOTHING if mean is None else f"{mean:.2f}", values=values)
    return FilledColumn(column=filled.column, cells=(*filled.cells, cell))


def _teacher_accuracies(groups: Sequence[Replicates | None], layout: Layout) -> Iterator[float]:
    for group in groups:
        if group is not None and read_field(group.plan, "teachers") is not None:
            yield from values_of(group, MEASURES["teacher_top1"], layout.evaluations)
