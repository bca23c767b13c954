"""One row for each run, as run lists of trackers and slides have them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kdctl.records import RunState, StoredRun
from kdctl.report.cells import FilledColumn, field_column
from kdctl.report.fields import read_field, short_names, show_value
from kdctl.report.layout import Layout
from kdctl.report.layout_kind import LayoutKind, layouts
from kdctl.report.measures import MEASURES, Measure, value_of
from kdctl.report.notes import subject_notes
from kdctl.report.replicates import selected_epoch
from kdctl.report.reported import Reported
from kdctl.report.table import what_is_shown
from kdctl.report.table_format import Cell, Column, Table
from kdctl.report.wording import NOTHING, SELECTION_WORDS, duration, rounded

_ALWAYS = ("method.name", "optimizer.learning_rate")
_VALUES = ("top1", "loss")
_TAKEN = frozenset({"run", "name", "created", "seconds", "epoch", "state", "seed", *MEASURES})
_NAME_DIGITS = 8


@layouts.register("runs")
class RunsLayout(LayoutKind):
    """Single runs, those that have not ended too."""

    has_room_beside = False
    shows_single_runs = True

    def table(self, runs: Sequence[StoredRun], layout: Layout, reported: Sequence[Reported]) -> Table:
        """Return the table, in which published numbers have no place."""
        return _run_table(runs, layout)


def _run_table(runs: Sequence[StoredRun], layout: Layout) -> Table:
    """Return the table of single runs: name, when, how long, epoch, accuracy, loss, and their settings."""
    plans = [run.plan for run in runs]
    fields = tuple(dict.fromkeys((*layout.rows, *_ALWAYS)))
    names = short_names(fields, taken=_TAKEN)
    values = layout.values or tuple(MEASURES[name] for name in _VALUES)
    columns = [
        _column("run", [run.key for run in runs], [run.key[:_NAME_DIGITS] for run in runs], identifies=True),
        *(field_column(names[field], [read_field(plan, field) for plan in plans]) for field in fields),
        _column("seed", [run.seed for run in runs], align="right"),
        *_when(runs, layout),
        *(_value_column(runs, layout, measure) for measure in values),
    ]
    if any(run.state is not RunState.FINISHED for run in runs):
        columns.append(_column("state", [run.state.value for run in runs]))
    return Table(
        caption=f"{what_is_shown(plans, layout, fields)}; single runs, {SELECTION_WORDS[layout.select]}",
        columns=tuple(filled.column for filled in columns),
        rows=tuple(zip(*(filled.cells for filled in columns), strict=True)),
        notes=tuple(subject_notes(plans)),
    )


def _when(runs: Sequence[StoredRun], layout: Layout) -> list[FilledColumn]:
    seconds = [run.result.train_seconds if run.result else None for run in runs]
    epochs = [epoch.epoch if (epoch := selected_epoch(run, layout.select)) else None for run in runs]
    created = [datetime.fromisoformat(run.created).strftime("%Y-%m-%d %H:%M") for run in runs]
    return [
        _column("created", [run.created for run in runs], created),
        _column(
            "time",
            [None if value is None else round(value, 1) for value in seconds],
            [NOTHING if value is None else duration(value) for value in seconds],
            part="seconds",
            align="right",
        ),
        _column("epoch", epochs, align="right"),
    ]


def _value_column(runs: Sequence[StoredRun], layout: Layout, measure: Measure) -> FilledColumn:
    values = [value_of(run, measure, layout.select, layout.evaluations.get(run.key)) for run in runs]
    texts = [
        NOTHING if value is None else f"{value / measure.scale:,.{measure.decimals}f}" for value in values
    ]
    raw = [rounded(value) for value in values]
    return _column(measure.title, raw, texts, part=measure.name, align="right")


def _column(
    title: str,
    values: Sequence[Any],
    texts: Sequence[str] | None = None,
    *,
    part: str = "",
    align: Any = "left",
    identifies: bool = False,
) -> FilledColumn:
    shown = texts or [show_value(value) for value in values]
    return FilledColumn(
        column=Column(title=title, parts=(part or title,), align=align, identifies=identifies),
        cells=tuple(Cell(text=text, values=(value,)) for text, value in zip(shown, values, strict=True)),
    )
