"""What Optuna's refusals mean to the person at the keyboard: its tables lie in our database."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import optuna
from sqlalchemy.exc import DBAPIError, OperationalError

from kdctl.errors import words_of
from kdctl.machine_errors import GOES_ON, MachineError, MachineFault

_DAMAGED = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT})
"""A statement of Optuna's that SQLite does not understand asks for a table or a column that is lost."""


@contextmanager
def explained_study(database: Path) -> Generator[None]:
    """Say in plain words why Optuna could not read or write its tables.

    Raises:
        MachineError: in place of what Optuna or SQLite said.
    """
    try:
        yield
    except (OperationalError, optuna.exceptions.StorageInternalError) as error:
        origin = getattr(error.__cause__ or error, "orig", None)
        code = getattr(origin, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # without its extension
        if code in _DAMAGED:
            raise _damaged(database, error) from error
        fault = MachineFault(
            problem=f"the study in {database} cannot be written: {origin or error}.",
            hint=f"free disk space, or end the program that locks the file; {GOES_ON}",
            path=str(database),
            needs_room=code == sqlite3.SQLITE_FULL,
        )
        raise MachineError(fault) from error
    except (DBAPIError, LookupError, ValueError, TypeError, RuntimeError) as error:
        if not _raised_in_storage(error):
            raise
        raise _damaged(database, error) from error


def _raised_in_storage(error: Exception) -> bool:
    """Return whether Optuna stumbled over its tables: over rows without their fellows, or that are junk."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.startswith(optuna.storages.__name__) for module in modules)


def _damaged(database: Path, error: Exception) -> MachineError:
    said = words_of(error).partition("\n")[0]
    fault = MachineFault(
        problem=f"the study in {database} is damaged: Optuna cannot make sense of its tables ({said}).",
        hint=f"move the file away and rebuild it from the run folders: `kdctl sync`; {GOES_ON}",
        path=str(database),
    )
    return MachineError(fault)
