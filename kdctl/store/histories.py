"""Epochs of runs in the database: a row for each while a run trains, all in one once it has ended."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, Text, bindparam, case, delete, func, select, type_coerce, update
from sqlalchemy.dialects.sqlite import insert

from kdctl.records import EpochResult
from kdctl.store.clock import utc_now
from kdctl.store.column_types import PackedLines
from kdctl.store.epoch_lines import in_order, parse_epochs, seconds_of_trees, sha256_of
from kdctl.store.faults import DamagedRowError
from kdctl.store.json_files import with_checksum
from kdctl.store.run_table import listed, states, unknown_run
from kdctl.store.tables import EpochRow, HistoryRow, RunRow

_TEXT = type_coerce(EpochRow.result, Text)
"""Of an epoch, as it is kept."""

_LINES = type_coerce(HistoryRow.lines, PackedLines(checksums=False)).label("lines")
"""Of epochs, to be read: they were checked when they came in, and the row is what was written."""


def add_epochs(connection: Connection, key: str, epochs: Sequence[EpochResult]) -> None:
    """Keep epochs of a run; a repeated one replaces what it was.

    Raises:
        KdctlError: the run is not known.
    """
    if not epochs:
        return
    _count_up_to(connection, {key: max(epoch.epoch for epoch in epochs)})
    statement = insert(EpochRow)
    statement = statement.on_conflict_do_update(
        index_elements=[EpochRow.run_key, EpochRow.epoch],
        set_={"result": statement.excluded.result},
        where=EpochRow.result != statement.excluded.result,
    )
    rows = [{"run_key": key, "epoch": epoch.epoch, "result": epoch} for epoch in epochs]
    connection.execute(statement, rows)


@dataclass(frozen=True, kw_only=True)
class History:
    """All epochs of a run that has ended."""

    lines: bytes
    """One for each epoch."""
    sha256: str
    """Of the lines."""
    latest: int
    """Number of the last epoch."""
    device_seconds: float
    undivided_seconds: float

    @classmethod
    def of(cls, lines: bytes, trees: Sequence[Mapping[str, Any]], sha256: str = "") -> Self:
        """Sum up lines.

        Args:
            lines: one for each epoch.
            trees: what they hold, by the number of the epoch; not empty.
            sha256: of the lines, if it is known.
        """
        own, undivided = seconds_of_trees(trees)
        return cls(
            lines=lines,
            sha256=sha256 or sha256_of(lines),
            latest=int(trees[-1]["epoch"]),
            device_seconds=own,
            undivided_seconds=undivided,
        )


def add_histories(connection: Connection, histories: Mapping[str, History]) -> None:
    """Keep all epochs of runs that have ended, by run key, in place of what was known of them.

    Raises:
        KdctlError: a run is not known.
    """
    keys = listed(histories)
    connection.execute(delete(EpochRow).where(EpochRow.run_key.in_(keys)))
    known = select(HistoryRow.run_key, HistoryRow.sha256).where(HistoryRow.run_key.in_(keys))
    before = {row.run_key: row.sha256 for row in connection.execute(known)}
    new = {key: history for key, history in histories.items() if before.get(key) != history.sha256}
    if not new:
        return
    _count_up_to(connection, {key: history.latest for key, history in new.items()})
    names = [item.name for item in dataclasses.fields(History)]
    statement = insert(HistoryRow)
    replaced = {name: statement.excluded[name] for name in names}
    connection.execute(
        statement.on_conflict_do_update(index_elements=[HistoryRow.run_key], set_=replaced),
        [
            {"run_key": key, **{name: getattr(history, name) for name in names}}
            for key, history in new.items()
        ],
    )


def pack_epochs(connection: Connection, key: str) -> None:
    """Bring the epochs of a run that has ended into one row; nothing else about the run changes."""
    rows = select(EpochRow.epoch, _TEXT).where(EpochRow.run_key == key)
    packed = lines_of(connection, key).splitlines()
    texts = {int(json.loads(line)["epoch"]): line for line in packed}
    texts |= {number: with_checksum(text.encode()) for number, text in connection.execute(rows)}
    ordered = [texts[number] for number in sorted(texts)]
    if ordered:
        lines = b"".join(line + b"\n" for line in ordered)
        add_histories(connection, {key: History.of(lines, list(map(json.loads, ordered)))})


def epochs_of(connection: Connection, key: str) -> list[EpochResult]:
    """Return the epochs of a run in their order."""
    statement = select(EpochRow.result).where(EpochRow.run_key == key).order_by(EpochRow.epoch)
    rows = list(connection.execute(statement).scalars())
    lines = connection.execute(select(_LINES).where(HistoryRow.run_key == key)).scalar()
    return in_order([*_parsed(lines), *rows]) if lines else rows


def results_at(connection: Connection, keys: Iterable[str], epoch: int) -> dict[str, EpochResult]:
    """Return what one epoch of several runs gave, by run key; runs without it are left out."""
    wanted = list(keys)
    packed = select(HistoryRow.run_key, _LINES).where(HistoryRow.run_key.in_(listed(wanted)))
    found: dict[str, EpochResult] = {}
    for key, lines in connection.execute(packed.where(HistoryRow.latest >= epoch)):
        mark = b'"epoch":%d,' % epoch
        likely = [line for line in lines.splitlines(keepends=True) if mark in line]
        results = [result for result in _parsed(b"".join(likely) or lines) if result.epoch == epoch]
        if results:
            found[key] = results[-1]
    rows = select(EpochRow.run_key, EpochRow.result).where(EpochRow.run_key.in_(listed(wanted)))
    found.update((row.run_key, row.result) for row in connection.execute(rows.where(EpochRow.epoch == epoch)))
    return found


def seconds_of(connection: Connection, keys: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the time of each run's epochs: its own share, and what earlier versions wrote undivided."""
    wanted = list(keys)
    own = func.json_extract(EpochRow.result, "$.device_seconds")
    undivided = case((own.is_(None), func.json_extract(EpochRow.result, "$.seconds")), else_=0.0)
    rows = select(EpochRow.run_key, func.total(own), func.total(undivided)).group_by(EpochRow.run_key)
    packed = select(HistoryRow.run_key, HistoryRow.device_seconds, HistoryRow.undivided_seconds)
    found: dict[str, tuple[float, float]] = {}
    for statement in (
        packed.where(HistoryRow.run_key.in_(listed(wanted))),
        rows.where(EpochRow.run_key.in_(listed(wanted))),
    ):
        for key, shared, alone in connection.execute(statement):
            before = found.get(key, (0.0, 0.0))
            found[key] = (before[0] + shared, before[1] + alone)
    return found


def history_hashes(connection: Connection) -> dict[str, str]:
    """Return the SHA-256 of the epochs of all runs that have ended, by run key."""
    rows = connection.execute(select(HistoryRow.run_key, HistoryRow.sha256))
    return {row.run_key: row.sha256 for row in rows}


def lines_of(connection: Connection, key: str) -> bytes:
    """Return the epochs of a run that has ended as lines; empty for another one."""
    return connection.execute(select(HistoryRow.lines).where(HistoryRow.run_key == key)).scalar() or b""


def _parsed(lines: bytes) -> list[EpochResult]:
    try:
        return parse_epochs(lines)
    except ValueError as error:
        raise DamagedRowError("a row holds no EpochResult") from error


def _count_up_to(connection: Connection, latest: Mapping[str, int]) -> None:
    """Note how far runs have come, by run key."""
    statement = update(RunRow).where(RunRow.key == bindparam("run"))
    values = {"updated": utc_now(), "epochs": func.max(RunRow.epochs, bindparam("latest"))}
    rows = [{"run": key, "latest": number} for key, number in latest.items()]
    if connection.execute(statement.values(**values), rows).rowcount < len(rows):
        raise unknown_run(min(latest.keys() - states(connection, latest).keys()))
