"""Opening the database: how its connections behave, and one transaction at a time.

An engine must not cross a fork: a child process opens its own.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from kdctl.errors import KdctlError
from kdctl.files import is_file, open_file, unreadable
from kdctl.machine_errors import MachineError
from kdctl.store.backup import copy_database, is_writable, read_only_uris
from kdctl.store.faults import explained
from kdctl.store.journal import MOUNTS, set_journal
from kdctl.store.migrations import STEPS, Step, apply_steps, recognised_version

BUSY_SECONDS = 60
"""How long a connection waits for another one's lock. Optuna's 5 s fail with eight writers."""

_SQLITE_MARK = b"SQLite format 3\x00"

_WRITES = "kdctl_writes"
"""Execution option: the transaction takes the write lock at once."""

_log = logging.getLogger(__name__)


def require_database(path: Path) -> None:
    """Make sure that there is a database at `path`.

    Raises:
        KdctlError: there is none.
    """
    if path.exists():
        return
    hint = "name the folder of your runs with --runs FOLDER, or make first ones: kdctl sweep quickstart"
    if next(path.parent.glob("*/plan.json"), None) is not None:
        hint = f"the run folders beside it are there: kdctl sync --runs {path.parent}"
    raise KdctlError(f"there is no database {path}.", hint)


def connect(
    path: Path,
    *,
    steps: Sequence[Step] = STEPS,
    mounts: Path = MOUNTS,
    timeout_seconds: float = BUSY_SECONDS,
    read_only: bool = False,
) -> Engine:
    """Open the database at `path`, made if need be, with its schema up to date.

    Any number of processes may do so at once. A file that is not ours is not changed.

    Args:
        path: where the database is, or will be.
        steps: the schema's history.
        mounts: where the system lists its mounted file systems.
        timeout_seconds: how long a transaction waits for another's lock.
        read_only: nothing will be written, so a place that cannot be written will do.

    Raises:
        KdctlError: the place cannot be written, or the file is not a database, not ours, damaged,
            locked, or from a newer kdctl.
    """
    if read_only and path.exists() and not is_writable(path):
        return _connect_to_read(path, steps, timeout_seconds)
    _require_writable(path)
    _require_sqlite(path)
    engine = _engine(path, timeout_seconds)
    try:
        with reading(engine) as connection:
            version = recognised_version(connection, path, steps)
        if version < len(steps):
            with writing(engine) as connection:
                apply_steps(connection, path, steps)
        with explained(path):
            set_journal(engine, path, timeout_seconds=timeout_seconds, mounts=mounts)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """Read one consistent state of the database; writers are not held up."""
    with explained(database_path(engine)), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Generator[Connection]:
    """Hold the write lock from the first statement to the end, so that what was read stays true."""
    writer = engine.execution_options(**{_WRITES: True})
    with explained(database_path(engine)), writer.begin() as connection:
        yield connection


def database_path(engine: Engine) -> Path:
    """Return the file that an engine of ours works on."""
    return Path(engine.url.database or "")


def _require_writable(path: Path) -> None:
    """Say in plain words what SQLite would refuse in its own."""
    if path.is_dir():
        raise KdctlError(
            f"{path} is a folder, not a database.", f"name a file in it, such as {path / 'kdctl.db'}."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdctlError(
            f"the folder of {path} cannot be made: {error.strerror}.", "name a database elsewhere."
        ) from error
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise KdctlError(
            f"{path} is read-only.", f"allow writing (`chmod u+rw {path}`), or copy it elsewhere."
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise KdctlError(
            f"the folder of {path} is read-only, and SQLite keeps its journal there.",
            f"allow writing (`chmod u+rwx {path.parent}`), or name a database elsewhere.",
        )


def _connect_to_read(path: Path, steps: Sequence[Step], timeout_seconds: float) -> Engine:
    """Open a database whose file or folder may not be written: an archive, or a colleague's store."""
    _require_sqlite(path)
    best, fallback = read_only_uris(path)
    for uri in (best, fallback):
        engine = _engine(path, timeout_seconds, uri)
        try:
            with reading(engine) as connection:
                version = recognised_version(connection, path, steps)
        except MachineError:
            engine.dispose()
            if uri == fallback:
                raise
            continue
        if version < len(steps):
            engine.dispose()
            return _connect_to_copy(path, steps, timeout_seconds)
        if uri == fallback and is_file(journal := path.with_name(f"{path.name}-wal")):
            _log.warning("%s cannot be read: what was written last may be missing.", journal)
        return engine
    raise AssertionError("the last mode returns or raises")


def _connect_to_copy(path: Path, steps: Sequence[Step], timeout_seconds: float) -> Engine:
    """Bring a copy of an older database up to date, and work on that; it goes with the engine."""
    _log.warning("%s was written by an older kdctl, and is read-only: a copy of it is read.", path)
    folder = tempfile.TemporaryDirectory(prefix="kdctl-")
    try:
        with explained(path):
            copy_database(path, copy := Path(folder.name, path.name))
        engine = _engine(path, timeout_seconds, copy.as_uri())
        with writing(engine) as connection:
            apply_steps(connection, path, steps, keep_copy=False)
    except OSError as error:
        problem = f"{path} was written by an older kdctl, and cannot be copied: {error.strerror}."
        raise KdctlError(problem, f"free room in {folder.name}, or allow to write to {path}.") from error

    @event.listens_for(engine, "engine_disposed")
    def clean_up(_engine: Engine) -> None:  # pyright: ignore[reportUnusedFunction]
        folder.cleanup()

    return engine


def _require_sqlite(path: Path) -> None:
    """Look for SQLite's mark: SQLite itself takes a text of less than 512 bytes for an empty database."""
    if not path.exists():
        return
    try:
        with open_file(path) as file:
            mark = file.read(len(_SQLITE_MARK))
    except OSError as error:
        raise unreadable(path, error) from error
    if mark not in {b"", _SQLITE_MARK}:
        raise KdctlError(
            f"{path} is not an SQLite database.",
            "name another file for kdctl's database, or move this one away.",
        )


def _engine(path: Path, timeout_seconds: float, uri: str = "") -> Engine:
    """Return an engine whose transactions SQLAlchemy begins, not the driver.

    The driver begins none before a SELECT, so that reading and then writing would not be atomic.

    Args:
        path: the database.
        timeout_seconds: how long a transaction waits for another's lock.
        uri: how SQLite is to open it, if not just by its path.
    """

    def opened() -> sqlite3.Connection:
        return sqlite3.connect(uri or path, timeout=timeout_seconds, uri=bool(uri), check_same_thread=False)

    engine = create_engine(URL.create("sqlite+pysqlite", database=str(path)), creator=opened)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None  # the driver begins no transaction of its own
        # In WAL mode a power cut may cost the last transactions, never the file; run folders have them.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        # Who reads first and then writes is refused if another has written meanwhile: the lock comes first.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
