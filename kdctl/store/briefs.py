"""Lists of runs: SQLite reads the few fields out of the stored trees, which is quick for ten thousand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, ScalarSelect, func, select

from kdctl.records import RunState
from kdctl.store.faults import DamagedRowError
from kdctl.store.run_table import in_sweep, listed
from kdctl.store.tables import EpochRow, RunRow

_PLAN_FIELDS = (
    "$.student.name",
    "$.method.name",
    "$.optimizer.learning_rate",
    "$.schedule.epochs",
    "$.teachers",
)


@dataclass(frozen=True, kw_only=True)
class RunBrief:
    """A run in one line: what a list of ten thousand shows."""

    key: str
    student: str
    teachers: tuple[str, ...]
    """Their architectures."""
    method: str
    learning_rate: float | None
    seed: int
    state: RunState
    epochs: int
    """Epochs recorded so far."""
    planned_epochs: int | None
    top1: float | None
    """Test accuracy of the last epoch in percent; of a run that is still training, of its last one so far."""
    reason: str
    created: str
    """UTC, ISO 8601."""
    updated: str
    """UTC, ISO 8601."""


def briefs(
    connection: Connection, *, keys: Iterable[str] | None = None, sweep: str | None = None, since: str = ""
) -> list[RunBrief]:
    """Return runs in the order in which they were planned.

    Args:
        connection: a transaction.
        keys: only these.
        sweep: only its members.
        since: only those that changed at this time (UTC, ISO 8601) or later.

    Raises:
        KdctlError: there is no such sweep.
    """
    statement = select(
        RunRow.key,
        RunRow.seed,
        RunRow.state,
        RunRow.epochs,
        RunRow.reason,
        RunRow.created,
        RunRow.updated,
        func.json_extract(RunRow.plan, *_PLAN_FIELDS).label("fields"),
        func.json_extract(RunRow.result, "$.selected.last.test.top1").label("top1"),
        _top1_so_far().label("top1_so_far"),
    ).order_by(RunRow.number)
    if keys is not None:
        statement = statement.where(RunRow.key.in_(listed(keys)))
    if sweep is not None:
        statement = statement.where(in_sweep(connection, sweep))
    if since:
        statement = statement.where(RunRow.updated >= since)
    return [_brief(row) for row in connection.execute(statement).mappings()]


def counts(connection: Connection, *, sweep: str | None = None) -> dict[RunState, int]:
    """Return how many runs stand where, in the order of states; those without a run are left out.

    Raises:
        KdctlError: there is no such sweep.
    """
    statement = select(RunRow.state, func.count()).group_by(RunRow.state)
    if sweep is not None:
        statement = statement.where(in_sweep(connection, sweep))
    found = {row[0]: int(row[1]) for row in connection.execute(statement)}
    return {state: found[state] for state in RunState if state in found}


def students_of(connection: Connection, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the runs that each of `keys` teaches, by teacher; those that teach nobody are left out."""
    teacher = func.json_each(RunRow.plan, "$.teachers").table_valued("value").alias("teacher")
    taught_by = func.json_extract(teacher.c.value, "$.run")
    statement = select(RunRow.key, taught_by.label("taught_by")).select_from(RunRow).join(teacher, _ALWAYS)
    found: dict[str, list[str]] = {}
    for row in connection.execute(statement.where(taught_by.in_(listed(keys))).order_by(RunRow.number)):
        found.setdefault(row.taught_by, []).append(row.key)
    return found


_ALWAYS = func.json_valid("1") == 1
"""Condition of a join with a table that a function makes of each row."""


def _top1_so_far() -> ScalarSelect[float | None]:
    """Return the test accuracy of the latest epoch of runs without a result."""
    latest = (EpochRow.run_key == RunRow.key, EpochRow.epoch == RunRow.epochs, RunRow.result.is_(None))
    return select(func.json_extract(EpochRow.result, "$.test.top1")).where(*latest).scalar_subquery()


def _brief(row: RowMapping) -> RunBrief:
    if row["fields"] is None:
        raise DamagedRowError("a row holds no plan")
    student, method, learning_rate, epochs, teachers = json.loads(row["fields"])
    return RunBrief(
        key=row["key"],
        student=student or "",
        teachers=tuple(teacher["name"] for teacher in teachers or ()),
        method=method or "",
        learning_rate=learning_rate,
        seed=row["seed"],
        state=row["state"],
        epochs=row["epochs"],
        planned_epochs=epochs,
        top1=_number(row["top1"] if row["top1"] is not None else row["top1_so_far"]),
        reason=row["reason"],
        created=row["created"],
        updated=row["updated"],
    )


def _number(value: object) -> float | None:
    """Return an accuracy; None for what is no number, which records spell as a text."""
    return float(value) if isinstance(value, (int, float)) else None
