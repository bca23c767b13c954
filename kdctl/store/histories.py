"""Epochs of runs in the database: a row for each while a run trains, all in one once it has ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Text, case, delete, func, select, type_coerce, update
from sqlalchemy.dialects.sqlite import insert

from kdctl.records import EpochResult
from kdctl.store.clock import utc_now
from kdctl.store.epoch_lines import in_order, parse_epochs, seconds_of_trees, sha256_of
from kdctl.store.faults import DamagedRowError
from kdctl.store.json_files import with_checksum
from kdctl.store.run_table import listed, unknown_run
from kdctl.store.tables import EpochRow, HistoryRow, RunRow

_TEXT = type_coerce(EpochRow.result, Text)
"""Of an epoch, as it is kept."""


def add_epochs(connection: Connection, key: str, epochs: Sequence[EpochResult]) -> None:
    """Keep epochs of a run; a repeated one replaces what it was.

    Raises:
        KdctlError: the run is not known.
    """
    if not epochs:
        return
    _count_up_to(connection, key, max(epoch.epoch for epoch in epochs))
    statement = insert(EpochRow)
    statement = statement.on_conflict_do_update(
        index_elements=[EpochRow.run_key, EpochRow.epoch],
        set_={"result": statement.excluded.result},
        where=EpochRow.result != statement.excluded.result,
    )
    rows = [{"run_key": key, "epoch": epoch.epoch, "result": epoch} for epoch in epochs]
    connection.execute(statement, rows)


def add_history(connection: Connection, key: str, lines: bytes, trees: Sequence[Mapping[str, Any]]) -> None:
    """Keep all epochs of a run that has ended, in place of what was known of them.

    Args:
        connection: a transaction.
        key: of the run.
        lines: one for each epoch.
        trees: what they hold, by the number of the epoch.

    Raises:
        KdctlError: the run is not known.
    """
    if not trees:
        return
    connection.execute(delete(EpochRow).where(EpochRow.run_key == key))
    sha256 = sha256_of(lines)
    if sha256 == connection.execute(select(HistoryRow.sha256).where(HistoryRow.run_key == key)).scalar():
        return
    own, undivided = seconds_of_trees(trees)
    latest = int(trees[-1]["epoch"])
    _count_up_to(connection, key, latest)
    values = {
        "sha256": sha256,
        "latest": latest,
        "device_seconds": own,
        "undivided_seconds": undivided,
        "lines": lines,
    }
    statement = insert(HistoryRow).values(run_key=key, **values)
    replaced = {name: statement.excluded[name] for name in values}  # not packed twice
    connection.execute(statement.on_conflict_do_update(index_elements=[HistoryRow.run_key], set_=replaced))


def pack_epochs(connection: Connection, key: str) -> None:
    """Bring the epochs of a run that has ended into one row; nothing else about the run changes."""
    rows = select(EpochRow.epoch, _TEXT).where(EpochRow.run_key == key)
    packed = _lines_of(connection, key).splitlines()
    texts = {int(json.loads(line)["epoch"]): line for line in packed}
    texts |= {number: with_checksum(text).encode() for number, text in connection.execute(rows)}
    ordered = [texts[number] for number in sorted(texts)]
    add_history(connection, key, b"".join(line + b"\n" for line in ordered), list(map(json.loads, ordered)))


def epochs_of(connection: Connection, key: str) -> list[EpochResult]:
    """Return the epochs of a run in their order."""
    statement = select(EpochRow.result).where(EpochRow.run_key == key).order_by(EpochRow.epoch)
    rows = list(connection.execute(statement).scalars())
    lines = _lines_of(connection, key)
    return in_order([*_parsed(lines), *rows]) if lines else rows


def results_at(connection: Connection, keys: Iterable[str], epoch: int) -> dict[str, EpochResult]:
    """Return what one epoch of several runs gave, by run key; runs without it are left out."""
    wanted = list(keys)
    packed = select(HistoryRow.run_key, HistoryRow.lines).where(HistoryRow.run_key.in_(listed(wanted)))
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


def _lines_of(connection: Connection, key: str) -> bytes:
    return connection.execute(select(HistoryRow.lines).where(HistoryRow.run_key == key)).scalar() or b""


def _parsed(lines: bytes) -> list[EpochResult]:
    try:
        return parse_epochs(lines)
    except ValueError as error:
        raise DamagedRowError("a row holds no EpochResult") from error


def _count_up_to(connection: Connection, key: str, latest: int) -> None:
    """Note how far a run has come."""
    values = {"updated": utc_now(), "epochs": func.max(RunRow.epochs, latest)}
    if connection.execute(update(RunRow).where(RunRow.key == key).values(**values)).rowcount == 0:
        raise unknown_run(key)
