"""The way into the room: from stored runs to a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack, cast

from kdctl.errors import UsageError, suggestion
from kdctl.evaluation_records import Evaluation
from kdctl.records import Selection, StoredRun, StoredSweep
from kdctl.report.best import choose_settings, with_marks
from kdctl.report.fields import known_fields, resolve_field
from kdctl.report.layout import Layout, read_best_by, read_selection, read_spread
from kdctl.report.layouts.fields_of import fields_of_layout
from kdctl.report.layouts.paper import paper_table
from kdctl.report.layouts.runs import run_table
from kdctl.report.leaders import teacher_notes, weak_teacher_lines
from kdctl.report.measures import find_measures, require_models
from kdctl.report.notes import choice_notes, mark_notes
from kdctl.report.replicates import Replicates, group_by_configuration, group_by_fields
from kdctl.report.reported import Reported, read_reported
from kdctl.report.shown_runs import by_role, only_where, require_numbers, teachers_of
from kdctl.report.table import configuration_table, pivot_table
from kdctl.report.table_format import Table, sort_rows
from kdctl.report.wording import plural
from kdctl.text import one_or_several

LAYOUTS = ("list", "paper", "grid", "overview", "runs")
"""Kinds of tables, by the name that `--layout` takes."""

_SEVERAL = ("rows", "columns", "values", "where")
"""Options that take several words."""

_OF_TIME = ("seconds", "images_per_second")
"""Values that runs of a gang share."""

_BESIDE_MEANS = {
    "published": "published numbers",
    "intervals": "intervals of differences",
    "versus_best": "comparisons with the best row",
}
"""Options whose columns stand beside the accuracy of a row, with what they show."""

_OF_MEANS = {
    "columns": "fields over columns",
    "best_by": "the best setting only",
    "mark_best": "marks of the best",
}
"""Options that have no meaning for single runs, with what they show."""


class TableOptions(TypedDict, total=False):
    """How a table is to look; what is left out is taken from the sweep's `[report]`, else from its runs."""

    layout: str | None
    """One of `LAYOUTS`; 'list' has one row for each configuration."""
    rows: Sequence[str]
    """Dotted or short names of the fields that make a row."""
    columns: Sequence[str]
    """Fields to spread over columns; then cells are means and nothing stands beside them."""
    values: Sequence[str]
    """What the cells tell: names of `measures.MEASURES`."""
    where: Sequence[str]
    """Conditions that the runs meet, each 'field=value' or 'field=value,value'."""
    select: str | None
    """'last', 'best-val' or 'best-test'."""
    spread: str
    """'sample', 'population', 'sem' or 'ci95'."""
    best_by: str | None
    """'val' or 'test': the split on which the best setting of each cell is chosen; None: all are shown."""
    sort: str
    """The column by which rows are sorted."""
    reverse: bool
    mark_best: bool
    """Whether the best and the second are marked."""
    intervals: bool
    """Whether half the 95 % confidence interval stands behind each difference."""
    versus_best: bool
    """Whether each row is also compared with the best one of its student."""
    published: Sequence[Reported]
    """Published numbers besides those of the recipes."""
    totals: Mapping[str, int]
    """Number of classes of data sets, where it is known."""
    evaluations: Mapping[str, Sequence[Evaluation]]
    """What `kdctl eval` found, by run key."""


def build_report(
    runs: Sequence[StoredRun],
    sweep: StoredSweep | Sequence[StoredSweep] | None = None,
    **options: Unpack[TableOptions],
) -> Table:
    """Return the table of `runs`: mean ± spread over seeds, beside baseline and published numbers.

    What is not given is taken from the sweep's `[report]`; rows default to the settings that tell
    the configurations apart, the selection to the last epoch.

    Args:
        runs: in the order in which their settings should appear.
        sweep: whose runs they are: gives `[report]`, `[[reported]]` and which runs are teachers.
        **options: see `TableOptions`.

    Raises:
        UsageError: a field, value, selection rule, spread or layout does not exist, or the layout has no
            place for what an option shows.
        KdctlError: no run has a number to show.
    """
    sweeps = (sweep,) if isinstance(sweep, StoredSweep) else tuple(sweep or ())
    given = _with_defaults(options, sweeps)
    students, teachers = by_role(runs, sweeps)
    if where := given.get("where", ()):
        students = only_where(students, where)
        teachers = teachers_of(students, teachers)
    kind = _kind(given.get("layout"))
    select = selection_of(options.get("select"), sweeps)
    require_numbers(students, select, unfinished_count=kind == "runs")
    layout = _layout(students, sweeps, kind, select, given, asked=[name for name in options if options[name]])
    left_out = _without_place(kind, layout, given)
    _refuse([shown for name, shown in left_out.items() if options.get(name)])
    if kind == "runs":
        table = run_table(students, layout)
    else:
        table = _mean_table(students, kind, layout, [*_reported(sweeps), *given.get("published", ())])
    weak = (f"Warning: {line}." for line in weak_teacher_lines(students, select))
    beside = (*_time_notes(students, table, layout), *teacher_notes(teachers, layout), *weak)
    notes = (*table.notes, *beside, *_left_out_notes(left_out.values()))
    table = dataclasses.replace(table, notes=notes)
    sort = given.get("sort", "")
    return sort_rows(table, sort, descending=given.get("reverse", False)) if sort else table


def wrong_options(options: Mapping[str, Any], plans: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what a recipe's `[report]` names that runs of these plans will not have."""
    known = known_fields(plans)
    for name in ("rows", "columns", "values"):
        for word in options.get(name, ()):
            try:
                find_measures([word]) if name == "values" else resolve_field(word, known)
            except UsageError as error:
                near, question, _ = error.hint.partition("?")  # without the list of all there are
                yield f"[report] {name}: {error.problem} {near}{question}"


def _mean_table(
    students: Sequence[StoredRun], kind: str, layout: Layout, reported: Sequence[Reported]
) -> Table:
    """Group the runs, choose among the groups where that is asked, and lay them out."""
    pools = kind == "list" and layout.best_by is None and layout.pools
    group = group_by_fields if pools else group_by_configuration
    groups: list[Replicates] = group(students, layout.fields, layout.select)
    notes: tuple[str, ...] = ()
    if layout.best_by is not None:
        cells = [field for field in layout.fields if field not in layout.chosen]
        choice = choose_settings(groups, cells, layout.best_by, layout.select)
        groups, notes = list(choice.groups), tuple(choice_notes(choice, layout))
    if layout.mark_best and layout.shows_accuracy:
        groups = with_marks(groups)
    if kind == "paper":
        table = paper_table(groups, layout)
    elif layout.columns:
        table = pivot_table(groups, layout)
    else:
        table = configuration_table(groups, layout, reported)
    return dataclasses.replace(table, notes=(*table.notes, *notes, *mark_notes(groups)))


def _with_defaults(options: TableOptions, sweeps: Sequence[StoredSweep]) -> TableOptions:
    """Fill in what the recipe says."""
    said = _said(sweeps)
    given: Any = {
        key: one_or_several(cast(str, value)) if key in _SEVERAL else value
        for key, value in options.items()
        if value
    }
    if given.get("layout"):  # its rows and columns are its own
        said = {key: value for key, value in said.items() if key not in ("rows", "columns")}
    if given.get("rows") or given.get("columns"):
        said = {key: value for key, value in said.items() if key != "layout"}
    return cast(TableOptions, {**said, **given})


def selection_of(asked: Selection | str | None, sweeps: Sequence[StoredSweep]) -> Selection:
    """Return which epoch counts: as `asked`, else as a single sweep's recipe says, else the last.

    Raises:
        UsageError: there is no such rule.
    """
    return read_selection(asked or _said(sweeps).get("select") or Selection.LAST)


def _said(sweeps: Sequence[StoredSweep]) -> Mapping[str, Any]:
    """Return `[report]` of the one sweep's recipe; of several, none has more to say than the others."""
    return sweeps[0].recipe.get("report", {}) if len(sweeps) == 1 else {}


def _kind(name: str | None) -> str:
    if name is not None and name not in LAYOUTS:
        raise UsageError(f"there is no layout '{name}'.", suggestion(name, LAYOUTS, "Layouts"))
    return name or "list"


def _without_place(kind: str, layout: Layout, given: TableOptions) -> dict[str, str]:
    """Return the options that were given and would be missing in the table, with what they show."""
    is_narrow = kind in ("paper", "runs") or layout.columns or layout.values
    homeless = (_BESIDE_MEANS if is_narrow else {}) | (_OF_MEANS if kind == "runs" else {})
    if layout.beside == "published":
        homeless |= {"versus_best": _BESIDE_MEANS["versus_best"]}
    if not layout.shows_accuracy:
        homeless |= {"mark_best": _OF_MEANS["mark_best"]}
    return {name: shown for name, shown in homeless.items() if given.get(name)}


def _refuse(asked: Sequence[str]) -> None:
    """Refuse what somebody asked for now; a recipe means its usual table, and is not refused."""
    if asked:
        raise UsageError(
            f"this table has no place for {' and '.join(asked)}.",
            "leave that out, or take --layout list or overview without --columns, --values and --against.",
        )


def _left_out_notes(asked: Iterable[str]) -> Iterator[str]:
    if listed := " and ".join(asked):
        yield f"The recipe's [report] also asks for {listed}: this table has no place for that."


def _time_notes(students: Sequence[StoredRun], table: Table, layout: Layout) -> Iterator[str]:
    """Say of the times of a table that runs of a gang share theirs."""
    is_timed = any(column.title == "time" for column in table.columns)
    if not is_timed and not any(measure.name in _OF_TIME for measure in layout.values):
        return
    timed = [run for run in students if run.result is not None]
    sizes = [len(run.environment.gang.split()) for run in timed if run.environment and run.environment.gang]
    if sizes:
        few, many = min(sizes), max(sizes)
        yield (
            f"Time: {len(sizes)} of {plural(len(timed), 'run')} trained in gangs of "
            f"{few if few == many else f'{few} to {many}'}; theirs is that of the whole gang."
        )


def _layout(
    students: Sequence[StoredRun],
    sweeps: Sequence[StoredSweep],
    kind: str,
    select: Selection,
    given: TableOptions,
    *,
    asked: Sequence[str],
) -> Layout:
    known = known_fields(run.plan for run in students)
    rows = tuple(resolve_field(name, known) for name in given.get("rows", ()))
    columns = tuple(resolve_field(name, known) for name in given.get("columns", ()))
    # A field is spread one way, and what was not asked for is the recipe's.
    if "columns" in asked and "rows" not in asked:
        rows = tuple(field for field in rows if field not in columns)
    elif "rows" in asked and "columns" not in asked:
        columns = tuple(field for field in columns if field not in rows)
    best_by = read_best_by(given.get("best_by") or ("val" if kind == "overview" else None))
    values = find_measures(given.get("values", ()))
    require_models(values, students, select)
    wanted = fields_of_layout(kind, [run.plan for run in students], rows, columns, choosing=bool(best_by))
    return Layout(
        rows=wanted.rows,
        columns=wanted.columns,
        chosen=wanted.chosen,
        pools=bool(rows or columns),
        beside="published" if "published" in given else "results" if kind == "overview" else "facts",
        select=select,
        spread=read_spread(given.get("spread") or "sample"),
        values=values,
        best_by=best_by,
        mark_best=given.get("mark_best", False),
        intervals=given.get("intervals", False),
        versus_best=given.get("versus_best", False),
        sweep=sweeps[0].name if len(sweeps) == 1 else "",
        totals=given.get("totals", {}),
        evaluations=_of_epoch(given.get("evaluations", {}), select),
    )


def _of_epoch(evaluations: Mapping[str, Sequence[Evaluation]], select: Selection) -> dict[str, Evaluation]:
    """Return the evaluations on the test set of the epoch that counts."""
    return {
        key: found
        for key, looks in evaluations.items()
        for found in looks
        if found.selection == select and found.split == "test"
    }


def _reported(sweeps: Sequence[StoredSweep]) -> list[Reported]:
    return [number for sweep in sweeps for number in read_reported(sweep.recipe)]
