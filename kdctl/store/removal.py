"""Taking runs, or their checkpoints, out of folders and database together, whatever is killed when.

A run is removed by deleting its row and renaming its folder to `.removed-<key>` in one transaction:
the renamed folder is a note of what was meant, and whoever finds one finishes the work.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import Connection, delete

from kdctl.errors import KdctlError, Mistake
from kdctl.files import is_gone
from kdctl.records import RunState
from kdctl.store.folder import RunFolder
from kdctl.store.leases import Owner
from kdctl.store.store import Store
from kdctl.store.tables import ArtifactRow, RunRow
from kdctl.store.transitions import holder_of, is_held

_REMOVED = ".removed-"

_log = logging.getLogger(__name__)


def held_runs(store: Store, keys: Iterable[str]) -> dict[str, Owner]:
    """Return those runs that a process which may be alive works on, with that process."""
    with store.reading() as connection:
        holders = {key: holder_of(connection, key) for key in keys if is_held(connection, key)}
    return {key: owner for key, owner in holders.items() if owner is not None}


def remove_run(store: Store, root: Path, key: str) -> None:
    """Remove a run's row, what belongs to it, and its folder in `root`.

    Raises:
        KdctlError: a process that may be alive works on it, or its folder cannot be moved: nothing is
            changed. Or the run is removed, and files of it cannot be deleted.
    """
    folder, removed = root / key, root / f"{_REMOVED}{key}"
    with store.writing() as connection:
        _require_idle(connection, key)
        connection.execute(delete(RunRow).where(RunRow.key == key))
        try:
            if not is_gone(folder):
                shutil.rmtree(removed, ignore_errors=True)
                folder.rename(removed)
        except OSError as error:
            raise KdctlError(
                f"run {key} stays: {folder} cannot be removed ({error.strerror}).",
                f"allow writing to {root}, then remove it again.",
            ) from error
    if stuck := _delete(removed):
        raise KdctlError(stuck.problem, stuck.hint)


def finish_removals(store: Store, root: Path) -> tuple[list[str], list[Mistake]]:
    """Finish what was killed while it removed runs; return their keys, and what still cannot be deleted.

    A run that somebody has planned or taken up since then stays: it has no folder before it begins.
    """
    keys: list[str] = []
    stuck: list[Mistake] = []
    for path in sorted(root.glob(f"{_REMOVED}*")):
        key = path.name.removeprefix(_REMOVED)
        with store.writing() as connection:
            if is_gone(root / key) and not is_held(connection, key):  # else it was started anew since
                begun = RunRow.state != RunState.PLANNED
                connection.execute(delete(RunRow).where(RunRow.key == key, begun))
        if mistake := _delete(path):
            stuck.append(mistake)
        else:
            keys.append(key)
    return keys, stuck


def free_files(store: Store, folder: RunFolder, names: Sequence[str]) -> None:
    """Delete checkpoints of a run that has ended, and keep everything that was measured.

    The run forgets its files before they go: killed in between, they are files that nobody knows.

    Raises:
        KdctlError: a process that may be alive works on the run, or its result cannot be read or written:
            nothing is changed. Or a file cannot be deleted.
    """
    with store.writing() as connection:
        _require_idle(connection, folder.key)
        folder.forget_artifacts(names)
        gone = ArtifactRow.name.in_(names)
        connection.execute(delete(ArtifactRow).where(ArtifactRow.run_key == folder.key, gone))
    stuck: list[str] = []
    for name in names:
        try:
            (folder.path / name).unlink(missing_ok=True)
        except OSError as error:
            stuck.append(f"{folder.path / name} ({error.strerror})")
    if stuck:
        raise KdctlError(
            f"{', '.join(stuck)} cannot be deleted.", "allow it, or delete what lies there yourself."
        )


def _delete(folder: Path) -> Mistake | None:
    """Delete a folder; return what is in the way. Where it is a link, only that goes."""
    try:
        if folder.is_symlink():
            _log.warning("%s was a link: %s is left as it is.", folder, folder.resolve())
            folder.unlink()
        else:
            shutil.rmtree(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror or error
        return Mistake(
            problem=f"{error.filename or folder} of a removed run cannot be deleted ({why}).",
            hint=f"allow it, and `kdctl sync` deletes the rest; or delete {folder} yourself.",
        )
    return None


def _require_idle(connection: Connection, key: str) -> None:
    holder = holder_of(connection, key)
    if holder is not None and is_held(connection, key):
        raise KdctlError(
            f"process {holder.pid} on {holder.host} works on run {key}.",
            "stop that process first (Ctrl-C saves its state), or wait for it.",
        )
