"""The way into the room: from stored runs to a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack, cast

from kdctl.errors import UsageError
from kdctl.evaluation_records import Evaluation
from kdctl.records import Selection, StoredRun, StoredSweep
from kdctl.report.fields import known_fields, resolve_field
from kdctl.report.layout import Layout, read_best_by, read_selection, read_spread
from kdctl.report.layout_kind import USUAL_LAYOUT, LayoutKind, Plans, layouts
from kdctl.report.leaders import teacher_notes, weak_teacher_lines
from kdctl.report.measures import find_measures, require_models
from kdctl.report.mistakes import wrong_names
from kdctl.report.reported import Reported, read_reported
from kdctl.report.shown_runs import by_role, only_where, require_numbers, teachers_of
from kdctl.report.table_format import Table, sort_rows
from kdctl.report.wording import enumerated
from kdctl.text import one_or_several, plural

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
    """Name of one of `layouts`; 'list' has one row for each configuration."""
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
    _require_names({name: given[name] for name in given if not options.get(name)}, students)
    kind = layouts.get(given.get("layout") or USUAL_LAYOUT).item()
    select = selection_of(options.get("select"), sweeps)
    require_numbers(students, select, unfinished_count=kind.shows_single_runs)
    layout = _layout(students, sweeps, kind, select, given, asked=[name for name in options if options[name]])
    left_out = _without_place(kind, layout, given)
    _refuse({name: shown for name, shown in left_out.items() if options.get(name)})
    table = kind.table(students, layout, [*_reported(sweeps), *given.get("published", ())])
    weak = (f"Warning: {line}." for line in weak_teacher_lines(students, select))
    beside = (*_time_notes(students, table, layout), *teacher_notes(teachers, layout), *weak)
    notes = (*table.notes, *beside, *_left_out_notes(left_out.values()))
    table = dataclasses.replace(table, notes=notes)
    sort = given.get("sort", "")
    return sort_rows(table, sort, descending=given.get("reverse", False)) if sort else table


def _require_names(said: Mapping[str, Any], runs: Sequence[StoredRun]) -> None:
    """Refuse what the recipe's `[report]` names and is not there.

    Raises:
        UsageError: it says what, and how to have another table.
    """
    for name, words in wrong_names(said, [run.plan for run in runs]):
        raise UsageError(
            f"the recipe's [report] {name}: {words}",
            f"give --{name} here, or mend it in the recipe and start the sweep again: it trains nothing.",
        )


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


def _without_place(kind: LayoutKind, layout: Layout, given: TableOptions) -> dict[str, str]:
    """Return the options that were given and would be missing in the table, with what they show."""
    is_narrow = not kind.has_room_beside or layout.columns or layout.values
    homeless = (_BESIDE_MEANS if is_narrow else {}) | (_OF_MEANS if kind.shows_single_runs else {})
    if layout.beside == "published":
        homeless |= {"versus_best": _BESIDE_MEANS["versus_best"]}
    if not layout.shows_accuracy:
        homeless |= {"mark_best": _OF_MEANS["mark_best"]}
    return {name: shown for name, shown in homeless.items() if given.get(name)}


def _refuse(asked: Mapping[str, str]) -> None:
    """Refuse what somebody asked for now; a recipe means its usual table, and is not refused."""
    if not asked:
        return
    is_beside = not asked.keys().isdisjoint(_BESIDE_MEANS)
    in_the_way = {
        "--columns": is_beside,
        "--values": is_beside or "mark_best" in asked,
        "--against": "versus_best" in asked,
    }
    without = enumerated([option for option, is_so in in_the_way.items() if is_so])
    raise UsageError(
        f"this table has no place for {enumerated(list(asked.values()))}.",
        f"leave that out, or take --layout list{without and f' without {without}'}.",
    )


def _left_out_notes(asked: Iterable[str]) -> Iterator[str]:
    if listed := enumerated(list(asked)):
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
    kind: LayoutKind,
    select: Selection,
    given: TableOptions,
    *,
    asked: Sequence[str],
) -> Layout:
    known = known_fields(run.plan for run in students)
    rows = tuple(dict.fromkeys(resolve_field(name, known) for name in given.get("rows", ())))
    columns = tuple(dict.fromkeys(resolve_field(name, known) for name in given.get("columns", ())))
    # A field is spread one way, and what was not asked for is the recipe's.
    if "columns" in asked and "rows" not in asked:
        rows = tuple(field for field in rows if field not in columns)
    elif "rows" in asked and "columns" not in asked:
        columns = tuple(field for field in columns if field not in rows)
    if twice := [field for field in rows if field in columns]:
        raise UsageError(f"'{twice[0]}' is asked for as a row and as a column.", "name it once.")
    best_by = read_best_by(given.get("best_by") or kind.best_by)
    values = find_measures(given.get("values", ()))
    require_models(values, students, select)
    wanted = kind.fields(Plans(trees=[run.plan for run in students]), rows, columns, choosing=bool(best_by))
    return Layout(
        rows=wanted.rows,
        columns=wanted.columns,
        chosen=wanted.chosen,
        pools=bool(rows or columns),
        beside="published" if "published" in given else kind.beside,
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
