"""The way into the room: from stored runs to a table."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kdctl.errors import KdctlError
from kdctl.records import RunState, Selection, StoredRun, StoredSweep
from kdctl.report.fields import distinguishing_fields, known_fields, resolve_field, varying_fields
from kdctl.report.layout import Layout, read_selection, read_spread
from kdctl.report.notes import teacher_notes
from kdctl.report.replicates import group_by_configuration, group_by_fields, selected_epoch
from kdctl.report.reported import read_reported
from kdctl.report.table import configuration_table, pivot_table
from kdctl.report.table_format import Table


def build_report(
    runs: Sequence[StoredRun],
    sweep: StoredSweep | None = None,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    select: str | None = None,
    spread: str = "sample",
) -> Table:
    """Return the table of `runs`: mean ± spread over seeds, beside baseline and published numbers.

    What is not given is taken from the sweep's `[report]`; rows default to the settings that tell
    the configurations apart, the selection to the last epoch.

    Args:
        runs: in the order in which their settings should appear.
        sweep: whose runs they are: gives `[report]`, `[[reported]]` and which runs are teachers.
        rows: dotted or short names of the fields that make a row.
        columns: fields to spread over columns; then cells are means and nothing stands beside them.
        select: 'last', 'best-val' or 'best-test'.
        spread: 'sample', 'population', 'sem' or 'ci95'.

    Raises:
        UsageError: a field, selection rule or spread does not exist.
        KdctlError: no run has a number to show.
    """
    wishes: Mapping[str, Any] = sweep.recipe.get("report", {}) if sweep else {}
    rule, kind = read_selection(select or wishes.get("select", "last")), read_spread(spread)
    students, teachers = _by_role(runs, sweep)
    _require_numbers(students, rule)
    known = known_fields(run.plan for run in students)
    wanted_rows = [resolve_field(name, known) for name in rows or wishes.get("rows", ())]
    wanted_columns = [resolve_field(name, known) for name in columns or wishes.get("columns", ())]
    layout = Layout(
        rows=_rows(students, wanted_rows, wanted_columns),
        columns=tuple(wanted_columns),
        select=rule,
        spread=kind,
        sweep=sweep.name if sweep else "",
    )
    group = group_by_fields if wanted_rows or wanted_columns else group_by_configuration
    groups = group(students, layout.fields, rule)
    if layout.columns:
        table = pivot_table(groups, layout)
    else:
        table = configuration_table(groups, layout, read_reported(sweep.recipe if sweep else {}))
    return dataclasses.replace(table, notes=(*table.notes, *teacher_notes(teachers, layout)))


def _rows(runs: Sequence[StoredRun], wanted: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the fields of the rows: as wanted, else what tells configurations apart.

    Protocols are never mixed unseen.
    """
    plans = [run.plan for run in runs]
    if wanted:
        mixes = "protocol" in varying_fields(plans) and "protocol" not in [*wanted, *columns]
        return ("protocol", *wanted) if mixes else tuple(wanted)
    fields = [field for field in distinguishing_fields(plans) if field not in columns]
    return tuple(fields) if fields or columns else ("method.name",)


def _by_role(runs: Sequence[StoredRun], sweep: StoredSweep | None) -> tuple[list[StoredRun], list[StoredRun]]:
    """Return students and teachers; a run that is both is a student, and teachers alone are shown as such."""
    members = sweep.members if sweep else ()
    students = {member.run_key for member in members if member.role != "teacher"}
    teachers = {member.run_key for member in members if member.role == "teacher"} - students
    if all(run.key in teachers for run in runs):
        return list(runs), []
    return [run for run in runs if run.key not in teachers], [run for run in runs if run.key in teachers]


def _require_numbers(runs: Sequence[StoredRun], select: Selection) -> None:
    """Raise unless there is at least one number to show."""
    if any(selected_epoch(run, select) for run in runs):
        return
    if not runs:
        raise KdctlError("there are no runs to report.", "train some: `kdctl train` or `kdctl sweep`.")
    if any(run.state is RunState.FINISHED for run in runs):
        raise KdctlError(
            f"no finished run has a '{select}' epoch.",
            f"use another selection rule ({', '.join(_available(runs))}), or hold out a validation split.",
        )
    counts = ", ".join(
        f"{count} {state}" for state, count in Counter(run.state.value for run in runs).items()
    )
    reasons = "; ".join(dict.fromkeys(run.reason for run in runs if run.reason))
    raise KdctlError(
        f"no run has finished: {counts}.",
        f"mend what stopped them ({reasons}), then run the sweep again."
        if reasons
        else "start the sweep again: it goes on where it stopped.",
    )


def _available(runs: Sequence[StoredRun]) -> list[str]:
    return sorted({rule for run in runs if run.result for rule in run.result.selected})
