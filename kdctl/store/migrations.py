"""How the schema came to be, step by step, and how a file is recognised and brought up to date.

`PRAGMA user_version` counts the steps that a file has behind it. A step that was released is never
changed: what comes later is a new step, and additive, because foreign keys stay on meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from kdctl.errors import KdctlError
from kdctl.store.backup import copy_database

Step = Sequence[str]
"""Statements that lead from one version of the schema to the next."""

APPLICATION_ID = int.from_bytes(b"kdct", "big")
"""Marks a file as ours (`PRAGMA application_id`)."""

OPTUNA_TABLES = frozenset(
    {
        "alembic_version", "studies", "study_directions", "study_system_attributes",
        "study_user_attributes", "trial_heartbeats", "trial_intermediate_values", "trial_params",
        "trial_system_attributes", "trial_user_attributes", "trial_values", "trials", "version_info",
    }
)  # fmt: skip
"""A file that holds some of these and nothing else is Optuna's: we may move in beside it."""

STEPS: tuple[Step, ...] = (
    (
        """
        CREATE TABLE kdctl_runs (
            number INTEGER NOT NULL PRIMARY KEY,
            "key" TEXT NOT NULL UNIQUE,
            configuration TEXT NOT NULL,
            seed INTEGER NOT NULL,
            "plan" TEXT NOT NULL,
            state VARCHAR NOT NULL,
            epochs INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            reason TEXT NOT NULL,
            created TEXT NOT NULL,
            updated TEXT NOT NULL,
            environment TEXT,
            result TEXT,
            lease_host TEXT,
            lease_pid INTEGER,
            lease_token TEXT,
            lease_expires TEXT
        )
        """,
        "CREATE INDEX ix_kdctl_runs_configuration ON kdctl_runs (configuration)",
        "CREATE INDEX ix_kdctl_runs_state ON kdctl_runs (state)",
        """
        CREATE TABLE kdctl_epochs (
            run_key TEXT NOT NULL REFERENCES kdctl_runs ("key") ON DELETE CASCADE,
            epoch INTEGER NOT NULL,
            result TEXT NOT NULL,
            PRIMARY KEY (run_key, epoch)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE kdctl_evaluations (
            run_key TEXT NOT NULL REFERENCES kdctl_runs ("key") ON DELETE CASCADE,
            selection TEXT NOT NULL,
            split TEXT NOT NULL,
            evaluation TEXT NOT NULL,
            PRIMARY KEY (run_key, selection, split)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE kdctl_artifacts (
            run_key TEXT NOT NULL REFERENCES kdctl_runs ("key") ON DELETE CASCADE,
            name TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            num_bytes INTEGER NOT NULL,
            PRIMARY KEY (run_key, name)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE kdctl_sweeps (
            number INTEGER NOT NULL PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            recipe TEXT NOT NULL,
            created TEXT NOT NULL
        )
        """,
        """
        CREATE TABLE kdctl_sweep_runs (
            number INTEGER NOT NULL PRIMARY KEY,
            sweep_name TEXT NOT NULL REFERENCES kdctl_sweeps (name) ON DELETE CASCADE,
            run_key TEXT NOT NULL REFERENCES kdctl_runs ("key") ON DELETE CASCADE,
            role TEXT NOT NULL,
            UNIQUE (sweep_name, run_key, role)
        )
        """,
        "CREATE INDEX ix_kdctl_sweep_runs_run_key ON kdctl_sweep_runs (run_key)",
    ),
    (
        """
        CREATE TABLE kdctl_histories (
            run_key TEXT NOT NULL PRIMARY KEY REFERENCES kdctl_runs ("key") ON DELETE CASCADE,
            sha256 TEXT NOT NULL,
            latest INTEGER NOT NULL,
            device_seconds DOUBLE NOT NULL,
            undivided_seconds DOUBLE NOT NULL,
            lines BLOB NOT NULL
        )
        """,
    ),
)

_log = logging.getLogger(__name__)


def recognised_version(connection: Connection, path: Path, steps: Sequence[Step]) -> int:
    """Return how many steps the file has behind it: 0 for a new one and for one of Optuna's.

    Raises:
        KdctlError: the file belongs to another program, or to a newer kdctl.
    """
    version = _pragma(connection, "user_version")
    if _pragma(connection, "application_id") != APPLICATION_ID:
        tables = _tables(connection)
        if version or not tables <= OPTUNA_TABLES:
            example = min(tables - OPTUNA_TABLES, default="")
            evidence = f" (it has a table '{example}')" if example else ""
            raise KdctlError(
                f"{path} is the database of another program{evidence}.",
                "name another file for kdctl's database.",
            )
        return 0
    if version > len(steps):
        raise KdctlError(
            f"{path} was written by a newer kdctl: its schema is {version}, this kdctl knows {len(steps)}.",
            "update kdctl, or name another database.",
        )
    return version


def apply_steps(connection: Connection, path: Path, steps: Sequence[Step], *, keep_copy: bool = True) -> None:
    """Bring a file up to date inside the caller's write transaction; keep a copy of an older one beside it.

    Raises:
        KdctlError: the file is not ours to change.
    """
    version = recognised_version(connection, path, steps)
    if keep_copy and 0 < version < len(steps):
        copy = _back_up(path, version)
        _log.info("%s is brought from schema %d to %d; a copy is in %s", path, version, len(steps), copy)
    for step in steps[version:]:
        for statement in step:
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.exec_driver_sql(f"PRAGMA user_version = {len(steps)}")


def _pragma(connection: Connection, name: str) -> int:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


def _tables(connection: Connection) -> set[str]:
    statement = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
    names = connection.exec_driver_sql(statement).scalars()
    return {name for name in names if not name.startswith("sqlite_")}


def _back_up(path: Path, version: int) -> Path:
    """Copy the committed content of the database to a file beside it."""
    copy = path.with_name(f"{path.name}.v{version}.backup")
    copy_database(path, copy)
    return copy
