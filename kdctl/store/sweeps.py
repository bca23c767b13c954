"""Sweeps: a recipe under a name, and the runs that belong to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, true
from sqlalchemy.dialects.sqlite import insert

from kdctl.records import RunState, StoredSweep, SweepMember
from kdctl.store.clock import utc_now
from kdctl.store.run_table import listed, require_sweep, states, unknown_run
from kdctl.store.tables import RunRow, SweepRow, SweepRunRow


def record(
    connection: Connection,
    name: str,
    *,
    recipe: Mapping[str, Any],
    members: Sequence[SweepMember],
    leaving: Sequence[str] = (),
    created: str = "",
) -> None:
    """Keep a sweep; a known name gets the new recipe, and keeps its members besides the new ones.

    Args:
        connection: a transaction that may write.
        name: of the sweep.
        recipe: as one merged tree.
        members: whose runs are known.
        leaving: keys of runs that are its members no more, in any role.
        created: when a new one was made (UTC, ISO 8601); now, if not given.

    Raises:
        KdctlError: a member's run is not known.
    """
    keys = [member.run_key for member in members]
    lost = set(keys) - set(states(connection, keys))
    if lost:
        raise unknown_run(min(lost))
    statement = insert(SweepRow).values(name=name, recipe=recipe, created=created or utc_now())
    statement = statement.on_conflict_do_update(
        index_elements=[SweepRow.name], set_={"recipe": statement.excluded.recipe}
    )
    connection.execute(statement)
    if leaving:
        gone = (SweepRunRow.sweep_name == name, SweepRunRow.run_key.in_(listed(leaving)))
        connection.execute(delete(SweepRunRow).where(*gone))
    rows = [{"sweep_name": name, "run_key": member.run_key, "role": member.role} for member in members]
    if rows:
        connection.execute(insert(SweepRunRow).on_conflict_do_nothing(), rows)


def find(connection: Connection, name: str) -> StoredSweep:
    """Return the sweep called `name`.

    Raises:
        KdctlError: there is none; the hint names the nearest.
    """
    require_sweep(connection, name)
    return _stored(connection, SweepRow.name == name)[0]


def all_sweeps(connection: Connection) -> list[StoredSweep]:
    """Return all sweeps, the newest first."""
    return _stored(connection, true())


def with_results(connection: Connection) -> list[str]:
    """Return the names of the sweeps in which a student has finished, the newest first."""
    finished = (
        select(SweepRunRow.sweep_name)
        .join(RunRow, RunRow.key == SweepRunRow.run_key)
        .where(RunRow.state == RunState.FINISHED, SweepRunRow.role != "teacher")
    )
    statement = select(SweepRow.name).where(SweepRow.name.in_(finished)).order_by(SweepRow.number.desc())
    return list(connection.execute(statement).scalars())


def of_runs(connection: Connection, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the sweeps that runs belong to, by run key."""
    names: dict[str, list[str]] = {}
    statement = select(SweepRunRow.run_key, SweepRunRow.sweep_name).distinct()
    for row in connection.execute(statement.where(SweepRunRow.run_key.in_(listed(keys)))):
        names.setdefault(row.run_key, []).append(row.sweep_name)
    return names


def _stored(connection: Connection, condition: ColumnElement[bool]) -> list[StoredSweep]:
    sweeps = select(SweepRow).where(condition).order_by(SweepRow.number.desc())
    members = select(SweepRunRow).join(SweepRow, SweepRow.name == SweepRunRow.sweep_name).where(condition)
    members_by_sweep: dict[str, list[SweepMember]] = defaultdict(list)
    for row in connection.execute(members.order_by(SweepRunRow.number)):
        members_by_sweep[row.sweep_name].append(SweepMember(run_key=row.run_key, role=row.role))
    return [
        StoredSweep(
            name=row.name, recipe=row.recipe, created=row.created, members=tuple(members_by_sweep[row.name])
        )
        for row in connection.execute(sweeps)
    ]
