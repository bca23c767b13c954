"""Which journal a database works with: WAL, except where several hosts may see the file."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from kdctl.files import resolved
from kdctl.store.faults import primary_code

_JOURNAL_SECONDS = 5
"""How long, at most, to try to change the journal mode, for which nobody else may be reading."""

MOUNTS = Path("/proc/mounts")
"""Linux lists its mounted file systems here; other systems have no such file."""

NETWORK_FILESYSTEMS = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
        "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs",
        "fuse.beegfs", "fuse.ceph", "fuse.cephfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs",
        "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
    }
)  # fmt: skip

_log = logging.getLogger(__name__)


def set_journal(engine: Engine, path: Path, *, timeout_seconds: float, mounts: Path = MOUNTS) -> None:
    """Use WAL, in which readers and the writer do not wait for each other, wherever it works."""
    filesystem = filesystem_of(path, mounts)
    wanted = "delete" if is_network(filesystem) else "wal"
    if wanted == "delete":
        _log.warning(
            "%s is on a network file system (%s): it works with a rollback journal, one process at a time."
            " Better keep the database on a local disk.",
            path,
            filesystem,
        )
    mode = _switch_journal(engine, wanted, min(timeout_seconds, _JOURNAL_SECONDS))
    if mode != wanted:
        _log.warning("%s works with journal mode %s: SQLite refused %s here.", path, mode, wanted)


def _switch_journal(engine: Engine, wanted: str, timeout_seconds: float) -> str:
    """Ask for a journal mode until it is granted, refused or time is up: SQLite itself does not wait here."""
    deadline = time.monotonic() + timeout_seconds
    with engine.connect() as pooled:
        connection: Any = pooled.connection.driver_connection  # outside of a transaction
        while (
            mode := connection.execute("PRAGMA journal_mode").fetchone()[0]
        ) != wanted and time.monotonic() < deadline:
            try:
                granted: str = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()[0]
            except sqlite3.OperationalError as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY:
                    raise
                time.sleep(0.02)
            else:
                return granted
    return mode


def filesystem_of(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that `path` is on, as Linux calls it; empty if unknown."""
    try:
        lines = os.fsdecode(mounts.read_bytes()).split("\n")  # names may hold any bytes, and other line ends
    except OSError:
        return ""
    path = resolved(path)
    fields = (line.split(" ") for line in lines if line)
    kind_by_place = {Path(_unescaped(place)): kind for _, place, kind, *_ in fields}
    place = next((place for place in (path, *path.parents) if place in kind_by_place), None)
    return kind_by_place[place] if place else ""


def is_network(filesystem: str) -> bool:
    """Return whether several hosts may see a file system of this type."""
    return filesystem in NETWORK_FILESYSTEMS


def _unescaped(place: str) -> str:
    """Undo how /proc/mounts writes blanks, tabs, line breaks and backslashes."""
    for written, meant in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        place = place.replace(written, meant)
    return place
