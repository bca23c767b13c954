"""Opening the database: how its connections behave, and one transaction at a time.

An engine must not cross a fork: a child process opens its own.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, Pool, create_engine, event

from kdctl.errors import KdctlError
from kdctl.files import is_file, is_gone, open_file, size_of, sqlite_path, unreadable
from kdctl.machine_errors import MachineError
from kdctl.store.backup import UpdatedCopy, is_writable, read_only_uris
from kdctl.store.faults import explained, lacks_files_beside, lacks_room, primary_code
from kdctl.store.journal import MOUNTS, set_journal
from kdctl.store.migrations import STEPS, Step, apply_steps, recognised_version

BUSY_SECONDS = 60
"""How long a connection waits for another one's lock. Optuna's 5 s fail with eight writers."""

_QUIET_SECONDS = 5.0
"""How long a connection waits before it says that it does."""

_SQLITE_MARK = b"SQLite format 3\x00"

_WRITES = "kdctl_writes"
"""Execution option: the transaction takes the write lock at once."""

_log = logging.getLogger(__name__)


def require_database(path: Path) -> None:
    """Make sure that there is a database at `path`.

    Raises:
        KdctlError: there is none.
    """
    if path.exists() and (path.stat().st_size or not path.is_file()):  # a full disk leaves an empty file
        return
    hint = "name the folder of your runs with --runs FOLDER, or make first ones: kdctl sweep quickstart"
    if next(path.parent.glob("*/plan.json"), None) is not None:
        hint = f"the run folders beside it are there: kdctl sync --runs {quote(str(path.parent))}"
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
        read_only: nothing will be changed: a place that cannot be written will do, and of an older
            database a copy is brought up to date in place of the file.

    Raises:
        KdctlError: the place cannot be written, or the file is not a database, not ours, damaged,
            locked, or from a newer kdctl.
    """
    if read_only and path.exists():
        return _connect_to_read(path, steps, timeout_seconds)
    _require_writable(path)
    _require_sqlite(path)
    engine = _engine(path, partial(_open, path, timeout_seconds))
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
    _require_no_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdctlError(
            f"the folder of {path} cannot be made: {error.strerror}.", "name another one: --runs."
        ) from error
    if path.exists() and is_mounted_read_only(path):
        raise KdctlError(
            f"{path} lies on a disk that is mounted read-only.",
            f"copy the whole folder elsewhere (`cp -r {quote(str(path.parent))} FOLDER`) and name the copy: "
            "--runs FOLDER. What only looks, such as `kdctl report`, reads it where it is.",
        )
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise KdctlError(
            f"{path} is read-only.", f"allow writing (`chmod u+rw {quote(str(path))}`), or copy it elsewhere."
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise KdctlError(
            f"the folder of {path} is read-only, and SQLite keeps its journal there.",
            f"allow writing (`chmod u+rwx {quote(str(path.parent))}`), or name another folder: --runs.",
        )


def is_mounted_read_only(path: Path) -> bool:
    """Return whether nobody may write there, whatever the modes of files say; False where none can tell."""
    return hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _require_no_folder(path: Path) -> None:
    if path.is_dir():
        raise KdctlError(
            f"{path} is a folder, not a database.",
            "move it away; `kdctl sync` makes a database from run folders.",
        )


def _connect_to_read(path: Path, steps: Sequence[Step], timeout_seconds: float) -> Engine:
    """Open a database that is to stay as it is: the reader only looks, or may not write there."""
    _require_no_folder(path)
    _require_sqlite(path)
    best, fallback = read_only_uris(path)
    for uri in ("" if is_writable(path) else best, fallback):
        engine = _engine(path, partial(_open, path, timeout_seconds, uri))
        try:
            with reading(engine) as connection:
                version = recognised_version(connection, path, steps)
        except MachineError as error:
            engine.dispose()
            cause = error.__cause__ or error
            if uri == fallback or not (lacks_room(cause) or (uri and lacks_files_beside(cause))):
                raise
            continue
        except BaseException:
            engine.dispose()
            raise
        if version < len(steps):
            engine.dispose()
            return _connect_to_copy(path, steps, timeout_seconds, is_ours=version > 0)
        journal = path.with_name(f"{path.name}-wal")
        if uri == fallback and (size_of(journal) or not (is_file(journal) or is_gone(journal))):
            _log.warning("%s cannot be read: what was written last may be missing.", journal)
        return engine
    raise AssertionError("the last mode returns or raises")


def _connect_to_copy(path: Path, steps: Sequence[Step], timeout_seconds: float, *, is_ours: bool) -> Engine:
    """Work on a copy of an older database that is brought up to date; it goes with the engine."""
    if is_ours:
        later = "`kdctl sync` brings it up to date, and the older kdctl cannot read it from then on"
        why = later if is_writable(path) else "it is read-only"
        _log.warning("%s was written by an older kdctl: a copy of it is read (%s).", path, why)

    def update(copy: Path) -> None:
        engine = _engine(path, partial(_open, copy, timeout_seconds))
        with writing(engine) as connection:
            apply_steps(connection, path, steps, keep_copy=False)
        engine.dispose()

    copy = UpdatedCopy(path, update)

    def opened() -> sqlite3.Connection:
        try:
            with explained(path):
                return copy.opened(partial(_open, timeout_seconds=timeout_seconds))
        except OSError as error:
            problem = f"{path} was written by an older kdctl, and cannot be copied: {error.strerror}."
            hint = f"free room in {tempfile.gettempdir()}, or bring it up to date: kdctl sync."
            raise KdctlError(problem, hint) from error

    engine = _engine(path, opened, poolclass=NullPool)  # each transaction looks for changes of the original

    @event.listens_for(engine, "engine_disposed")
    def clean_up(_engine: Engine) -> None:  # pyright: ignore[reportUnusedFunction]
        copy.remove()

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


def _open(path: Path, timeout_seconds: float, uri: str = "") -> sqlite3.Connection:
    """Open a file by its path, or as SQLite is told by `uri`."""
    name = uri or sqlite_path(path)
    return sqlite3.connect(name, timeout=timeout_seconds, uri=bool(uri), check_same_thread=False)


def _engine(
    path: Path, opened: Callable[[], sqlite3.Connection], *, poolclass: type[Pool] | None = None
) -> Engine:
    """Return an engine whose transactions SQLAlchemy begins, not the driver.

    The driver begins none before a SELECT, so that reading and then writing would not be atomic.

    Args:
        path: the database.
        opened: makes a connection that waits for the locks of others.
        poolclass: of the connections; SQLAlchemy's choice if not given.
    """
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)), creator=opened, poolclass=poolclass
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None  # the driver begins no transaction of its own
        # In WAL mode a power cut may cost the last transactions, never the file; run folders have them.
        _wait_for_lock(connection, path, "PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        opened: Any = connection.connection.driver_connection
        # Who reads first and then writes is refused if another has written meanwhile: the lock comes first.
        writes = connection.get_execution_options().get(_WRITES, False)
        _wait_for_lock(opened, path, "BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _wait_for_lock(connection: sqlite3.Connection, path: Path, statement: str) -> None:
    """Execute the first statement that needs a lock; who waits long for another program's is told so."""
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()  # milliseconds
    quiet = min(patience, int(1000 * _QUIET_SECONDS))
    try:
        connection.execute(f"PRAGMA busy_timeout = {quiet}")
        connection.execute(statement)
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_BUSY or quiet == patience:
            raise
        _log.warning("%s is locked by another program: waiting for it, %d s at most.", path, patience // 1000)
        connection.execute(f"PRAGMA busy_timeout = {patience - quiet}")
        connection.execute(statement)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")
