"""Copies of the database, made while others go on writing to it, and what SQLite says of its health."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

_SOUND = "ok"


def is_writable(path: Path) -> bool:
    """Return whether SQLite could write to the database at `path`: it keeps a journal beside it."""
    return os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def read_only_uris(path: Path) -> tuple[str, str]:
    """Return how to open a database that may not be written, the better way first.

    In WAL mode SQLite needs a file beside the database. Where that is missing and cannot be made, nobody
    writes either, and the database can be read as it lies there (`immutable`).
    """
    uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
    return uri, f"{uri}&immutable=1"


def copy_database(source: Path, target: Path) -> None:
    """Copy the committed content of a database to `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with closing(_opened(source)) as origin, closing(sqlite3.connect(temporary)) as copy:
            origin.backup(copy)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def complaints(path: Path) -> list[str]:
    """Return what SQLite finds wrong with a database: torn pages, lost rows, broken references."""
    with closing(_opened(path)) as connection:
        try:
            integrity = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            references = [
                f"a row of {table} refers to a row of {parent} that is not there"
                for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check")
            ]
        except sqlite3.DatabaseError as error:  # so damaged that it cannot even be looked through
            return [str(error)]
    return [*(line for line in integrity if line != _SOUND), *dict.fromkeys(references)]


def _opened(path: Path) -> sqlite3.Connection:
    if is_writable(path):
        return sqlite3.connect(path)
    best, fallback = read_only_uris(path)
    connection = sqlite3.connect(best, uri=True)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        return sqlite3.connect(fallback, uri=True)
    return connection
