"""State transitions of runs: claimed, renewed, settled, released, pruned and revived.

Several processes write one database. So each transition is one conditional UPDATE: SQLite lets one
writer in at a time, checks the condition under its lock, and the row count tells whether it held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, or_, select, update

from kdctl.errors import KdctlError
from kdctl.records import SETTLED, RunResult, RunState
from kdctl.store.clock import utc_now
from kdctl.store.leases import LONGEST_SECONDS, Lease, Owner
from kdctl.store.run_table import listed
from kdctl.store.tables import RunRow

RELEASED = frozenset({RunState.PLANNED, RunState.INTERRUPTED, RunState.FAILED})
"""States in which an owner may leave a run that has no result."""

NOBODY: dict[str, Any] = {
    "lease_host": None,
    "lease_pid": None,
    "lease_token": None,
    "lease_expires": None,
}
"""Values of the lease columns of a run that nobody holds."""


def claim(
    connection: Connection,
    key: str,
    *,
    owner: Owner,
    lease_seconds: float,
    retry_failed: bool = False,
    silent: Owner | None = None,
) -> bool:
    """Take a run that is free; return whether it is now the owner's.

    A lease of `silent` does not count: the caller has found that process to be gone.
    """
    startable = [RunState.PLANNED, RunState.INTERRUPTED, *([RunState.FAILED] if retry_failed else [])]
    abandoned: list[ColumnElement[bool]] = [RunRow.lease_expires.is_(None), RunRow.lease_expires <= utc_now()]
    holder = holder_of(connection, key)
    if holder is not None and (holder == silent or holder.is_gone()):
        abandoned.append(_held_by(holder))
    free = or_(RunRow.state.in_(startable), and_(RunRow.state == RunState.RUNNING, or_(*abandoned)))
    statement = (
        update(RunRow)
        .where(RunRow.key == key, free)
        .values(
            state=RunState.RUNNING,
            attempts=RunRow.attempts + 1,
            reason="",
            result=None,
            updated=utc_now(),
            lease_host=owner.host,
            lease_pid=owner.pid,
            lease_token=owner.token,
            lease_expires=utc_now(seconds_ahead=lease_seconds),
        )
    )
    return connection.execute(statement).rowcount == 1


def renew(connection: Connection, key: str, *, owner: Owner, lease_seconds: float) -> bool:
    """Hold a run for longer; return whether it is still the owner's."""
    return _change(connection, key, owner, {"lease_expires": utc_now(seconds_ahead=lease_seconds)})


def settle(connection: Connection, key: str, *, owner: Owner, result: RunResult) -> None:
    """Write down how a run ended.

    Raises:
        KdctlError: the owner does not hold the run any more.
    """
    if not _change(connection, key, owner, ended(result)):
        holder = holder_of(connection, key)
        whose = f"process {holder.pid} on {holder.host} holds it" if holder else "nobody holds it"
        raise KdctlError(
            f"the result of run {key} was refused: {whose}, not process {owner.pid} on {owner.host}.",
            "see how it stands with `kdctl list runs`; the run folder keeps what was computed.",
        )


def release(connection: Connection, key: str, *, owner: Owner, state: RunState, reason: str) -> bool:
    """Give a run back without a result; return whether it was the owner's to give.

    Raises:
        ValueError: `state` is not one in which a run may be left.
    """
    if state not in RELEASED:
        raise ValueError(f"a run is not released as {state.value}")
    return _change(connection, key, owner, {"state": state, "reason": reason, "updated": utc_now(), **NOBODY})


def prune(connection: Connection, keys: Sequence[str], *, reason: str) -> int:
    """Take runs that are not worth more out of the race; return how many it were.

    One that is out of it already may be so for another reason now.
    """
    other = and_(RunRow.state == RunState.PRUNED, RunRow.reason != reason)
    idle = or_(RunRow.state.in_(RELEASED), other)
    values = {"state": RunState.PRUNED, "reason": reason, "updated": utc_now()}
    pruned = 0
    for key in keys:
        statement = update(RunRow).where(RunRow.key == key, idle).values(values)
        pruned += connection.execute(statement).rowcount
    return pruned


def revive(connection: Connection, keys: Sequence[str]) -> int:
    """Let pruned runs be started after all; return how many it were."""
    begun = case((RunRow.epochs > 0, RunState.INTERRUPTED.value), else_=RunState.PLANNED.value)
    pruned = (RunRow.state == RunState.PRUNED, RunRow.key.in_(listed(keys)))
    statement = update(RunRow).where(*pruned).values(state=begun, reason="", updated=utc_now())
    return connection.execute(statement.execution_options(synchronize_session=False)).rowcount


def ended(result: RunResult) -> dict[str, Any]:
    """Return the columns of a run that came to its end.

    Raises:
        ValueError: the result's state is not an end.
    """
    if result.state not in SETTLED | {RunState.FAILED}:
        raise ValueError(f"a run does not end as {result.state.value}")
    return {
        "state": result.state,
        "result": result,
        "reason": result.reason,
        "updated": utc_now(),
        **NOBODY,
    }


def is_held(connection: Connection, key: str) -> bool:
    """Return whether a process that may be alive holds a run, and its lease has not run out.

    One that ends later than any lease can was written by a clock that was wrong, and says nothing.
    """
    holder = holder_of(connection, key)
    believable = RunRow.lease_expires.between(utc_now(), utc_now(seconds_ahead=LONGEST_SECONDS))
    unexpired = select(RunRow.key).where(RunRow.key == key, believable)
    return holder is not None and not holder.is_gone() and connection.execute(unexpired).first() is not None


def holder_of(connection: Connection, key: str) -> Owner | None:
    """Return the process that holds a run, whether it is alive or not."""
    lease = lease_of(connection, key)
    return lease.owner if lease else None


def lease_of(connection: Connection, key: str) -> Lease | None:
    """Return who holds a run, and until when."""
    columns = (RunRow.lease_host, RunRow.lease_pid, RunRow.lease_token, RunRow.lease_expires)
    row = connection.execute(select(*columns).where(RunRow.key == key)).one_or_none()
    host, pid, token, expires = row or (None, None, None, None)
    if host is None or pid is None or token is None:
        return None
    return Lease(owner=Owner(host=host, pid=pid, token=token), expires=expires or "")


def _change(connection: Connection, key: str, owner: Owner, values: dict[str, Any]) -> bool:
    """Change a run if the owner holds it; return whether so."""
    mine = and_(RunRow.key == key, RunRow.state == RunState.RUNNING, _held_by(owner))
    return connection.execute(update(RunRow).where(mine).values(values)).rowcount == 1


def _held_by(owner: Owner) -> ColumnElement[bool]:
    return and_(
        RunRow.lease_host == owner.host,
        RunRow.lease_pid == owner.pid,
        RunRow.lease_token == owner.token,
    )
