"""The page's list of runs: one row each, with what tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdctl.records import Selection, StoredRun
from kdctl.report.fields import distinguishing_fields, read_field, short_names, show_value
from kdctl.report.replicates import selected_epoch
from kdctl.report.table_format import Cell, Column, Number, Table
from kdctl.report.wording import NOTHING, title

_KEY_DIGITS = 8
_SECONDS = len("2026-01-31T12:00:00")


def run_list(runs: Sequence[StoredRun], select: Selection) -> Table:
    """Return one row for each run: key, settings that differ, seed, state, numbers of the selected epoch."""
    distinct = distinguishing_fields([run.plan for run in runs])
    shown = list(dict.fromkeys([*_ALWAYS, *(field for field in distinct if _is_plain(field))]))
    names = short_names(shown, taken=_OWN)
    columns = [
        Column(title="run", parts=("key",), align="left"),
        *(
            Column(title=title(names[field]), parts=(names[field],), align=_align(runs, field))
            for field in shown
        ),
        Column(title="seed", parts=("seed",)),
        Column(title="state", parts=("state",), align="left"),
        *(Column(title=name, parts=(part,)) for name, part, _ in _NUMBERS),
        Column(title="created (UTC)", parts=("created",), align="left"),
    ]
    rows = [
        (
            Cell(text=run.key[:_KEY_DIGITS], values=(run.key,)),
            *(_setting(run, field) for field in shown),
            Cell(text=str(run.seed), values=(run.seed,)),
            Cell(text=run.state.value, values=(run.state.value,)),
            *_numbers(run, select),
            Cell(text=run.created[:_SECONDS].replace("T", " "), values=(run.created,)),
        )
        for run in runs
    ]
    return Table(caption="", columns=tuple(columns), rows=tuple(rows))


_ALWAYS = ("student.name", "teachers", "method.name")
_NUMBERS = (
    ("epochs", "epochs", "d"),
    ("epoch", "epoch", "d"),
    ("top-1 (%)", "top1", ".2f"),
    ("top-5 (%)", "top5", ".2f"),
    ("test loss", "loss", ".4f"),
    ("time (s)", "seconds", ".0f"),
)


_OWN = ("key", "seed", "state", "created", *(part for _, part, _ in _NUMBERS))
"""Columns of what became of a run: the epochs that it has are not the setting 'epochs'."""


def _numbers(run: StoredRun, select: Selection) -> list[Cell]:
    epoch = selected_epoch(run, select)
    values: dict[str, Number] = {"epochs": run.epochs}
    if epoch is not None and run.result is not None:
        values |= {
            "epoch": epoch.epoch,
            "top1": epoch.test.top1,
            "top5": epoch.test.top5,
            "loss": epoch.test.loss,
            "seconds": run.result.train_seconds,
        }
    return [
        Cell(
            text=NOTHING if values.get(part) is None else format(values[part], form),
            values=(values.get(part),),
        )
        for _, part, form in _NUMBERS
    ]


def _setting(run: StoredRun, field: str) -> Cell:
    value: Any = read_field(run.plan, field)
    return Cell(text=show_value(value), values=(show_value(value) if isinstance(value, tuple) else value,))


def _align(runs: Sequence[StoredRun], field: str) -> Any:
    values = [read_field(run.plan, field) for run in runs]
    numbers = all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values
    )
    return "right" if numbers and any(value is not None for value in values) else "left"


def _is_plain(field: str) -> bool:
    """Whether a field is no part of a list, such as a teacher's own settings."""
    return not any(part.isdigit() for part in field.split("."))
