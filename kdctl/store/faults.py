"""What SQLite's refusals mean to the person at the keyboard, and room that is put by against one of them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from kdctl.machine_errors import GOES_ON, MachineError, MachineFault

_MEANINGS: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_NOTADB: (
        "{path} is not an SQLite database.",
        "name another file, or move this one away.",
    ),
    sqlite3.SQLITE_CORRUPT: (
        "{path} is damaged.",
        "move it away and rebuild it from the run folders: `kdctl sync`.",
    ),
    sqlite3.SQLITE_BUSY: (
        "{path} is locked: another program keeps writing to it.",
        "end that program, or wait for it; then try again.",
    ),
    sqlite3.SQLITE_READONLY: (
        "{path} cannot be written: it is read-only.",
        "allow writing to the file and its folder, or name another folder: --runs.",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "{path}, or the journal beside it, cannot be opened.",
        "allow writing to the file and its folder, or name another folder: --runs.",
    ),
    sqlite3.SQLITE_FULL: (
        "there is no room on the disk for {path}.",
        f"free disk space; {GOES_ON}",
    ),
    sqlite3.SQLITE_IOERR: (
        "{path} cannot be read or written: the disk reports an error.",
        "check the disk and its free space, or name another folder: --runs.",
    ),
}


_REMOVED_IN_USE = (
    "wait for the process that works with it, or end it; then rebuild it from the run folders: `kdctl sync`."
)

_JUNK = "a row holds what kdctl never writes"
_CHANGED = "it lacks a table or a column"

_SIGNS = {
    "malformed JSON": _JUNK,
    "Could not decode to UTF-8": _JUNK,
    "no such table: kdctl_": _CHANGED,
    "no such column: kdctl_": _CHANGED,
    "has no column named ": _CHANGED,
    "unsupported file format": "its head names a format that SQLite does not know",
}
"""What SQLite says of a damaged file without a code of its own -> what that means."""


class DamagedRowError(ValueError):
    """A row holds what kdctl never writes."""


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn SQLite's refusals that a person can mend into a `MachineError`; let others pass.

    No run is to blame for any of them.
    """
    try:
        yield
    except DamagedRowError as error:
        raise _damaged(path, str(error)) from error
    except UnicodeDecodeError as error:  # SQLite quotes a damaged statement of a schema
        raise _damaged(path, "what it says of its tables is no text") from error
    except (DBAPIError, sqlite3.Error) as error:
        if _extended_code(error) == sqlite3.SQLITE_IOERR_SHORT_READ:
            problem = f"{path} and the journal beside it (-wal) do not fit: one was removed while in use."
            fault = MachineFault(problem=problem, hint=_REMOVED_IN_USE, path=str(path))
            raise MachineError(fault) from error
        code = sqlite3.SQLITE_FULL if lacks_room(error) else primary_code(error)
        for sign, meaning in _SIGNS.items():
            if sign in str(error):
                raise _damaged(path, meaning) from error
        if code not in _MEANINGS:
            raise
        problem, hint = _MEANINGS[code]
        fault = MachineFault(
            problem=problem.format(path=path),
            hint=hint,
            path=str(path),
            needs_room=code == sqlite3.SQLITE_FULL,
        )
        raise MachineError(fault) from error


def lacks_files_beside(error: BaseException) -> bool:
    """Return whether SQLite could not use the files that it keeps beside a database.

    Then nobody else works with it, for they would be there, and it can be read as it lies: not so while
    another program holds it locked.
    """
    return primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)


def lacks_room(error: BaseException) -> bool:
    """Return whether the disk is full; a file beside the database that cannot grow says so, too."""
    return primary_code(error) == sqlite3.SQLITE_FULL or _extended_code(error) == sqlite3.SQLITE_IOERR_SHMSIZE


def _damaged(path: Path, what: str) -> MachineError:
    _, hint = _MEANINGS[sqlite3.SQLITE_CORRUPT]
    problem = f"{path} is damaged: {what}."
    return MachineError(MachineFault(problem=problem, hint=hint, path=str(path)))


def primary_code(error: BaseException) -> int:
    """Return SQLite's code for an error, without its extension; -1 if it is not SQLite's."""
    code = _extended_code(error)
    return code & 0xFF if code >= 0 else -1


def _extended_code(error: BaseException) -> int:
    origin = getattr(error, "orig", error)  # of SQLAlchemy's errors: what SQLite said
    return getattr(origin, "sqlite_errorcode", -1)


NUM_BYTES = 2**20
"""Enough to note the end of some thirty runs."""

_NAME = ".reserve"


def keep_reserve(root: Path) -> None:
    """Take the room in the folder `root`, unless it is taken; where that cannot be, do without."""
    path = root / _NAME
    with contextlib.suppress(OSError):
        if not path.is_file() or path.stat().st_size < NUM_BYTES:
            path.write_bytes(os.urandom(NUM_BYTES))  # zeros would take no room on disks that compress


def spend_reserve(root: Path) -> None:
    """Give the room back: somebody has something to note, or nobody is at work any more."""
    with contextlib.suppress(OSError):
        (root / _NAME).unlink(missing_ok=True)
