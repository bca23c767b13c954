"""Sweeps as files, so that a lost database can be rebuilt with them.

runs/sweeps/<name>.json    recipe and members, in the order in which they were planned
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kdctl.errors import KdctlError
from kdctl.files import is_file, is_gone, read_file, unreadable
from kdctl.records import StoredSweep, SweepMember
from kdctl.serialization import values_of
from kdctl.store import sweeps
from kdctl.store.atomic import write_atomically
from kdctl.store.json_files import LARGEST_FILE, has_checksum, line_of, parse_record
from kdctl.store.run_table import states
from kdctl.store.store import Store

FOLDER = "sweeps"

_WITH_CHECKSUM = 2
"""Form of a file that ends with a checksum; earlier versions wrote neither."""

_APPLE_DOUBLE = "._"
"""Begins the names of files that macOS adds on disks of other systems."""

_LONGEST_NAME = 120
"""Letters of a file name; a longer sweep's name is cut and told apart by its hash."""


@dataclass(frozen=True, kw_only=True)
class _SweepFile(StoredSweep):
    """What the file of a sweep holds."""

    form: int = 1
    """`_WITH_CHECKSUM`, if it was not written by an earlier version."""


def keep_sweep(
    store: Store,
    root: Path,
    name: str,
    recipe: Mapping[str, Any],
    *,
    members: Sequence[SweepMember],
    leaving: Sequence[str] = (),
) -> None:
    """Keep a sweep in the database and in its file below `root`.

    A known name gets the new recipe, and the new members besides its old ones, less those leaving.
    The file is written inside the transaction: it is never older than the database.

    Raises:
        KdctlError: a member's run is not known.
    """
    with store.writing() as connection:
        sweeps.record(connection, name, recipe=recipe, members=members, leaving=leaving)
        content = _content(sweeps.find(connection, name))
        path = sweep_path(root, name)
        if not _holds(path, content):
            write_atomically(path, content)


def copy_sweep(store: Store, root: Path, name: str) -> None:
    """Write the file of a sweep below another `root`; an earlier state of it there is replaced.

    Raises:
        KdctlError: there is no such sweep, or what has its name there has runs that it has not.
        MachineError: `root` cannot be written.
    """
    sweep, path = store.sweep(name), sweep_path(root, name)
    if not is_gone(path) and not set(read_sweep(path).members) <= set(sweep.members):
        raise KdctlError(
            f"{path} is there, and has runs that the sweep does not have here.",
            "copy to another folder, or move that file away first.",
        )
    if not _holds(path, content := _content(sweep)):
        write_atomically(path, content)


def sweep_files(root: Path) -> list[Path]:
    """Return the files of all sweeps below `root`.

    Raises:
        KdctlError: their folder may not be looked into.
    """
    folder = root / FOLDER
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
    return [path for path in paths if path.name.endswith(".json") and path.name[:2] != _APPLE_DOUBLE]


def read_sweep(path: Path) -> StoredSweep:
    """Read the file of a sweep.

    Raises:
        KdctlError: it cannot be read, is damaged, has lost its checksum, or is a copy of another one: which
            was written later, nobody knows.
    """
    hint = "restore the file from a copy, or delete it: the next `kdctl sweep` writes it again."
    try:
        content = read_file(path, at_most=LARGEST_FILE)
    except OSError as error:
        raise unreadable(path, error) from error
    known = parse_record(path, content, _SweepFile, if_damaged=hint)
    if known.form >= _WITH_CHECKSUM and not has_checksum(content):
        raise KdctlError(f"{path} is damaged: its checksum is missing.", hint)
    usual = path.with_name(sweep_path(Path(), known.name).name)
    if usual.name != path.name and is_file(usual):
        raise KdctlError(
            f"{path} speaks of the sweep '{known.name}', as {usual.name} does.",
            f"move the copy out of the folder, or put it in the place of {usual.name}.",
        )
    return StoredSweep(**values_of(known, StoredSweep))


def differs(sweep: StoredSweep, known: StoredSweep) -> bool:
    """Return whether the file of a sweep says something else than the database.

    Members that never started have no folder: after the database was lost it knows fewer than the file.
    """
    return sweep.recipe != known.recipe or not set(known.members) <= set(sweep.members)


def ingest_sweep(store: Store, path: Path) -> bool:
    """Bring a sweep into the database as its file has it; return whether that changed anything.

    The file is read inside the transaction, as it is written: a sweep that is running adds members.
    Members that never started have no folder, and may be unknown: the next start adds them again.

    Raises:
        KdctlError: it cannot be read, is damaged, or has lost its checksum.
    """
    with store.writing() as connection:
        sweep = read_sweep(path)
        known = states(connection, [member.run_key for member in sweep.members])
        members = tuple(member for member in sweep.members if member.run_key in known)
        before = [item for item in sweeps.all_sweeps(connection) if item.name == sweep.name]
        if before and (before[0].recipe, before[0].members) == (sweep.recipe, members):
            return False
        old = [member.run_key for item in before for member in item.members]
        sweeps.record(
            connection,
            sweep.name,
            recipe=sweep.recipe,
            members=members,
            leaving=old,
            created=sweep.created,
        )
        return True


def sweep_path(root: Path, name: str) -> Path:
    """Return where the file of a sweep lies; any name, also one with slashes, has a place."""
    safe = quote(name, safe="")
    if safe.startswith("."):  # a hidden file would be left behind by `cp *` and by people
        safe = f"%2E{safe[1:]}"
    if len(safe) > _LONGEST_NAME:
        safe = f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return root / FOLDER / f"{safe}.json"


def _content(sweep: StoredSweep) -> bytes:
    return line_of(_SweepFile(**values_of(sweep, StoredSweep), form=_WITH_CHECKSUM))


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_file(path) == content
    except OSError:
        return False
