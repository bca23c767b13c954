"""Copies of the database, made while others go on writing to it, and what SQLite says of its health."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

_SOUND = "ok"


def copy_database(source: Path, target: Path) -> None:
    """Copy the committed content of a database to `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with closing(sqlite3.connect(source)) as origin, closing(sqlite3.connect(temporary)) as copy:
            origin.backup(copy)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def complaints(path: Path) -> list[str]:
    """Return what SQLite finds wrong with a database: torn pages, lost rows, broken references."""
    with closing(sqlite3.connect(path)) as connection:
        integrity = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        references = [
            f"a row of {table} refers to a row of {parent} that is not there"
            for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check")
        ]
    return [*(line for line in integrity if line != _SOUND), *dict.fromkeys(references)]
