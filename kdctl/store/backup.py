"""Copies of the database, made while others go on writing to it, and what SQLite says of its health."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from kdctl.files import sqlite_path
from kdctl.store.faults import lacks_files_beside, lacks_room, primary_code

_SOUND = "ok"

_SOUND_ALL_THE_SAME = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
    }
)
"""Codes that say nothing of what a database holds."""


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
        with (
            closing(open_to_read(source)) as origin,
            closing(sqlite3.connect(sqlite_path(temporary))) as copy,
        ):
            origin.backup(copy)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


class UpdatedCopy:
    """A copy of a database with the schema of today, made anew after each change of the original.

    An older kdctl may go on writing to the original while a newer one looks.
    """

    def __init__(self, path: Path, update: Callable[[Path], None]) -> None:
        """Copy `path` when it is first asked for; `update` brings a copy up to date."""
        self._path = path
        self._update = update
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._stamps: list[tuple[int, int] | None] = []

    def opened(self, opened: Callable[[Path], sqlite3.Connection]) -> sqlite3.Connection:
        """Return what `opened` makes of the copy; who reads an earlier one may go on.

        Raises:
            OSError: there is no room for it.
        """
        with self._lock:
            journal = self._path.with_name(f"{self._path.name}-wal")
            stamps = [_stamp(path) for path in (self._path, journal)]
            if self._folder is None or stamps != self._stamps:
                self._remove()
                self._folder = tempfile.TemporaryDirectory(prefix="kdctl-")
                copy_database(self._path, self._copy(self._folder))
                self._update(self._copy(self._folder))
                self._stamps = stamps
            return opened(self._copy(self._folder))

    def remove(self) -> None:
        """Delete the copy."""
        with self._lock:
            self._remove()

    def _copy(self, folder: tempfile.TemporaryDirectory[str]) -> Path:
        return Path(folder.name, self._path.name)

    def _remove(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written; None without the file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def complaints(path: Path) -> list[str]:
    """Return what SQLite finds wrong with a database: torn pages, lost rows, broken references.

    Raises:
        sqlite3.Error: it could not look, for want of a lock, a permission or room.
    """
    with closing(open_to_read(path)) as connection:
        try:
            integrity = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            references = [
                f"a row of {table} refers to a row of {parent} that is not there"
                for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check")
            ]
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # it cannot even be looked through
            if primary_code(error) in _SOUND_ALL_THE_SAME:
                raise
            return [str(error)]
    return [*(line for line in integrity if line != _SOUND), *dict.fromkeys(references)]


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a database that is to stay as it is."""
    best, fallback = read_only_uris(path)
    may_write = is_writable(path)
    if may_write:  # opened as such, or SQLite leaves the files of its journal behind
        connection = sqlite3.connect(sqlite_path(path))
        connection.execute("PRAGMA query_only = ON")
    else:
        connection = sqlite3.connect(best, uri=True)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError as error:
        if lacks_room(error) or (not may_write and lacks_files_beside(error)):
            connection.close()
            return sqlite3.connect(fallback, uri=True)
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        pass  # whoever asks for more is told
    return connection
