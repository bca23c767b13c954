"""Taking runs, or their checkpoints, out of folders and database together, whatever is killed when.

A run is removed by deleting its row and renaming its folder to `.removed-<key>` in one transaction:
the renamed folder is a note of what was meant, and whoever finds one finishes the work.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import Connection, delete

from kdctl.errors import KdctlError
from kdctl.store.folder import RunFolder
from kdctl.store.leases import Owner
from kdctl.store.store import Store
from kdctl.store.tables import ArtifactRow, RunRow
from kdctl.store.transitions import holder_of, is_held

_REMOVED = ".removed-"


def held_runs(store: Store, keys: Iterable[str]) -> dict[str, Owner]:
    """Return those runs that a process which may be alive works on, with that process."""
    with store.writing() as connection:
        holders = {key: holder_of(connection, key) for key in keys if is_held(connection, key)}
    return {key: owner for key, owner in holders.items() if owner is not None}


def remove_run(store: Store, root: Path, key: str) -> None:
    """Remove a run's row, what belongs to it, and its folder in `root`.

    Raises:
        KdctlError: a process that may be alive works on it; nothing is changed.
    """
    folder, removed = root / key, root / f"{_REMOVED}{key}"
    with store.writing() as connection:
        _require_idle(connection, key)
        connection.execute(delete(RunRow).where(RunRow.key == key))
        if folder.exists():
            shutil.rmtree(removed, ignore_errors=True)
            folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def finish_removals(store: Store, root: Path) -> list[str]:
    """Finish what was killed while it removed runs; return their keys."""
    keys = [path.name.removeprefix(_REMOVED) for path in sorted(root.glob(f"{_REMOVED}*"))]
    for key in keys:
        with store.writing() as connection:
            if not (root / key).exists():  # else the run was started anew since
                connection.execute(delete(RunRow).where(RunRow.key == key))
        shutil.rmtree(root / f"{_REMOVED}{key}", ignore_errors=True)
    return keys


def free_files(store: Store, folder: RunFolder, names: Sequence[str]) -> None:
    """Delete checkpoints of a run that has ended, and keep everything that was measured.

    The run forgets its files before they go: killed in between, they are files that nobody knows.

    Raises:
        KdctlError: a process that may be alive works on the run; nothing is changed.
    """
    result, artifacts = folder.result(), folder.artifacts()
    with store.writing() as connection:
        _require_idle(connection, folder.key)
        kept = [artifact for artifact in artifacts if artifact.name not in names]
        if result is not None and len(kept) < len(artifacts):
            folder.write_result(result, kept)
        gone = ArtifactRow.name.in_(names)
        connection.execute(delete(ArtifactRow).where(ArtifactRow.run_key == folder.key, gone))
    for name in names:
        (folder.path / name).unlink(missing_ok=True)


def _require_idle(connection: Connection, key: str) -> None:
    holder = holder_of(connection, key)
    if holder is not None and is_held(connection, key):
        raise KdctlError(
            f"process {holder.pid} on {holder.host} works on run {key}.",
            "stop that process first (Ctrl-C saves its state), or wait for it.",
        )
