"""The run table: planning runs, and finding them again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, insert, or_, select, type_coerce

from kdctl.errors import KdctlError, suggestion
from kdctl.recipe.history import align
from kdctl.records import Environment, PlannedRun, RunState, StoredRun
from kdctl.store.clock import utc_now
from kdctl.store.column_types import PlainText, read_json
from kdctl.store.tables import EpochRow, HistoryRow, RunRow, SweepRow, SweepRunRow

MIN_PREFIX = 4
"""Fewest digits of a key that name a run."""

_MAX_CANDIDATES = 8

_SEED = re.compile(r'"seed":(\d{1,18})(?=[,}])')
"""Where the text of a plan says its seed. In one of a run that was taught, teachers may have seeds, too."""

_ONE_SEED = 2
"""Parts of a text behind its first one, if it was split at the only seed that it has."""

_COLUMNS = tuple(
    type_coerce(column, PlainText(required=not column.nullable)).label(column.name)
    if column.name in ("plan", "environment")
    else column
    for column in RunRow.__table__.columns
)
"""Of a run. Plans and environments as their texts: many runs have the same."""

_LAST_LETTER = "\U0010ffff"
"""No text with the same beginning comes after this one."""


def add(
    connection: Connection, runs: Sequence[PlannedRun], *, created: Mapping[str, str] | None = None
) -> int:
    """Add the runs that are not known yet; return how many these were.

    The write lock is held, so that what is unknown stays so until it is added. `created` says when it was
    planned, by key; where it does not, that is now.
    """
    known = states(connection, [run.key for run in runs])
    new = {run.key: run for run in runs if run.key not in known}
    now = utc_now()
    rows = [
        {
            "key": run.key,
            "configuration": run.configuration,
            "seed": run.seed,
            "plan": run.plan,
            "state": RunState.PLANNED,
            "epochs": 0,
            "attempts": 0,
            "reason": "",
            "created": (created or {}).get(run.key) or now,
            "updated": now,
        }
        for run in new.values()
    ]
    if rows:
        connection.execute(insert(RunRow), rows)
    return len(rows)


def find(connection: Connection, prefix: str, path: Path) -> StoredRun:
    """Return the one run whose key begins with `prefix`; a whole key always names its run.

    Raises:
        KdctlError: no run of the database at `path`, or more than one, has such a key.
    """
    if len(prefix) < MIN_PREFIX:
        raise KdctlError(
            f"'{prefix}' is too short to name a run.",
            f"give {MIN_PREFIX} digits of its key or more: `kdctl list runs`.",
        )
    first = prefix.casefold()
    begins = RunRow.key.between(first, first + _LAST_LETTER)  # unlike `substr`, this finds it by the index
    keys = connection.execute(select(RunRow.key).where(begins).order_by(RunRow.key)).scalars().all()
    if not keys:
        hint = "see the keys with `kdctl list runs`."
        if connection.scalar(select(SweepRow.name).where(SweepRow.name == prefix)) is not None:
            hint = f"that is a sweep; see its runs with `kdctl runs list --sweep {quote(prefix)}`."
        raise KdctlError(f"there is no run '{prefix}' in {path}.", hint)
    if len(keys) > 1 and prefix not in keys:
        shown = ", ".join(keys[:_MAX_CANDIDATES]) + (", ..." if len(keys) > _MAX_CANDIDATES else "")
        raise KdctlError(f"'{prefix}' begins the keys of {len(keys)} runs.", f"give more digits: {shown}.")
    key = prefix if prefix in keys else keys[0]
    return _stored(connection.execute(select(*_COLUMNS).where(RunRow.key == key)).all())[0]


def select_runs(
    connection: Connection,
    *,
    keys: Iterable[str] | None = None,
    sweep: str | None = None,
    state: RunState | None = None,
) -> list[StoredRun]:
    """Return the runs that meet all conditions, in the order in which they were planned.

    Plans of different versions of kdctl are brought into one form.

    Raises:
        KdctlError: there is no such sweep.
    """
    statement = select(*_COLUMNS).order_by(RunRow.number)
    if keys is not None:
        statement = statement.where(RunRow.key.in_(listed(keys)))
    if sweep is not None:
        statement = statement.where(in_sweep(connection, sweep))
    if state is not None:
        statement = statement.where(RunRow.state == state)
    return _stored(connection.execute(statement).all())


def in_sweep(connection: Connection, name: str) -> ColumnElement[bool]:
    """Return the condition that a run is a member of the sweep called `name`.

    Raises:
        KdctlError: there is none; the hint names the nearest.
    """
    require_sweep(connection, name)
    return RunRow.key.in_(select(SweepRunRow.run_key).where(SweepRunRow.sweep_name == name))


def require_sweep(connection: Connection, name: str) -> None:
    """Make sure that there is a sweep of this name.

    Raises:
        KdctlError: there is none; the hint names the nearest.
    """
    names = connection.execute(select(SweepRow.name)).scalars().all()
    if name not in names:
        raise KdctlError(f"there is no sweep '{name}'.", suggestion(name, names, "Sweeps"))


def states(connection: Connection, keys: Iterable[str]) -> dict[str, RunState]:
    """Return where runs stand, by key; unknown ones are left out."""
    statement = select(RunRow.key, RunRow.state).where(RunRow.key.in_(listed(keys)))
    return {row.key: row.state for row in connection.execute(statement)}


def past(connection: Connection, keys: Iterable[str], epoch: int) -> set[str]:
    """Return the runs that have completed an epoch, and are held no longer or have been trained beyond it."""
    gone_on = or_(RunRow.state != RunState.RUNNING, RunRow.epochs > epoch)
    known = select(EpochRow.run_key).where(EpochRow.epoch == epoch)
    ended = select(HistoryRow.run_key).where(HistoryRow.latest >= epoch)
    wanted = (RunRow.key.in_(listed(keys)), or_(RunRow.key.in_(known), RunRow.key.in_(ended)), gone_on)
    return set(connection.execute(select(RunRow.key).where(*wanted)).scalars())


def state_of(connection: Connection, key: str) -> RunState:
    """Return where a known run stands."""
    return connection.execute(select(RunRow.state).where(RunRow.key == key)).scalar_one()


def unknown_run(key: str) -> KdctlError:
    """Return the error for a run that the database has lost, or never had."""
    return KdctlError(
        f"the database has no run {key}.", "read the run folders into the database with `kdctl sync`."
    )


def listed(keys: Iterable[str]) -> Select[tuple[str]]:
    """Return keys as a subquery with one bound value: SQLite limits how many there may be."""
    return select(func.json_each(json.dumps(list(keys))).table_valued("value").c.value)


def _stored(rows: Sequence[Row[Any]]) -> list[StoredRun]:
    plans = _plans([row.plan for row in rows])
    texts = {row.environment for row in rows} - {None}
    environments = {text: read_json(Environment, text) for text in texts}
    return [
        StoredRun(
            key=row.key,
            configuration=row.configuration,
            seed=row.seed,
            plan=plan,
            state=row.state,
            epochs=row.epochs,
            attempts=row.attempts,
            reason=row.reason,
            created=row.created,
            updated=row.updated,
            environment=environments.get(row.environment),
            result=row.result,
        )
        for row, plan in zip(rows, plans, strict=True)
    ]


def _plans(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Read plans, and bring those of different versions into one form.

    Those that differ in nothing but their seed share their tables: of ten thousand runs, few are read.
    """
    trees: dict[str, dict[str, Any]] = {}
    kinds: list[tuple[str, int | None]] = []
    for text in texts:
        before, *rest = _SEED.split(text)
        kind, seed = (before + rest[1], int(rest[0])) if len(rest) == _ONE_SEED else (text, None)
        if kind not in trees:
            trees[kind] = read_json(dict[str, Any], text)
        kinds.append((kind, seed if "seed" in trees[kind] else None))
    _share_tables(trees.values())
    align(list(trees.values()))
    return [trees[kind] if seed is None else {**trees[kind], "seed": seed} for kind, seed in kinds]


def _share_tables(plans: Iterable[dict[str, Any]]) -> None:
    """Let plans have equal tables in common: thousands of configurations differ in one or two of theirs."""
    known: dict[tuple[str, str], Any] = {}
    for plan in plans:
        for name, part in plan.items():
            if isinstance(part, (dict, list)):
                plan[name] = known.setdefault((name, repr(part)), part)
