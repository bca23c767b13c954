"""Reading run folders and sweep files into the database, which is only their index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, Mistake
from kdctl.files import UnreadableError
from kdctl.machine_errors import MachineError, noted
from kdctl.records import ENDED, RunState, StoredSweep
from kdctl.store.briefs import RunBrief
from kdctl.store.folder import FolderSnapshot, RunFolder, run_folders
from kdctl.store.ingest import FolderContents, ingest_all, read_contents
from kdctl.store.integrity import (
    changed_epochs,
    changed_evaluations,
    contradictions,
    lost_environment,
    read_ended_run,
)
from kdctl.store.removal import finish_removals
from kdctl.store.store import Store
from kdctl.store.sweep_files import ingest_sweep, read_sweep, sweep_files
from kdctl.workflows.checking import without_folder, without_result
from kdctl.workflows.plan_keys import KeysOfPlans, foreign_key, foreign_plan

_AT_ONCE = 100
"""Folders that are brought into the database in one transaction."""


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What a synchronisation changed in the database."""

    added: Mapping[str, RunState]
    """Runs that it did not know, by key."""
    changed: Mapping[str, RunState]
    """Runs of which it knew less, or something else."""
    num_unchanged: int
    sweeps: tuple[str, ...]
    """Names of sweeps that are new or changed."""
    removed: tuple[str, ...]
    """Keys of runs whose removal had been killed half-way, and is finished now."""
    damaged: tuple[Mistake, ...]
    """Folders and files that could not be read, or lack something."""


def synchronise(
    workspace: Workspace, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> SyncReport:
    """Bring every run folder and sweep file into the database; doing so again changes nothing.

    Nothing is ever deleted from the database, but what a killed `runs rm` had left.

    Args:
        workspace: the folders, and a database that may be empty.
        progress: is told how many folders of how many are read.
    """
    store, damaged = workspace.store, list[Mistake]()
    removed, stuck = finish_removals(store, workspace.runs)
    damaged.extend(stuck)
    before = {brief.key: brief for brief in store.briefs()}
    sweeps = _read_sweeps(workspace, damaged)
    folders = _in_order(run_folders(workspace.runs), list(sweeps.values()))
    keys = KeysOfPlans()
    hashes, seen = store.history_hashes(), set[str]()
    read: list[FolderContents] = []
    for number, folder in enumerate(folders, start=1):
        sha256 = hashes.get(folder.key, "")
        found = _read(
            FolderSnapshot(folder), store, keys, damaged, known=before.get(folder.key), sha256=sha256
        )
        if found is not None:
            read.append(found)
        if len(read) == _AT_ONCE or number == len(folders):
            seen |= ingest_all(store, read).keys()
            read.clear()
        progress(number, len(folders))
    there = {folder.key for folder in folders}
    for key, brief in before.items():
        if key not in there:
            damaged.extend(without_folder(brief))
    after = {brief.key: brief for brief in store.briefs(keys=seen)}
    different = {key: brief.state for key, brief in after.items() if before.get(key) != brief}
    return SyncReport(
        added={key: state for key, state in different.items() if key not in before},
        changed={key: state for key, state in different.items() if key in before},
        num_unchanged=len(after) - len(different),
        sweeps=tuple(sweep.name for path, sweep in sweeps.items() if _ingested(store, path, damaged)),
        removed=tuple(removed),
        damaged=tuple(damaged),
    )


def _read(
    folder: FolderSnapshot,
    store: Store,
    keys: KeysOfPlans,
    damaged: list[Mistake],
    *,
    known: RunBrief | None,
    sha256: str,
) -> FolderContents | None:
    """Return what a folder holds; None, and what is wrong with it, if it is not to be read into the database.

    Args:
        folder: of a run.
        store: what it is held against.
        keys: computes those of plans without a checksum, for which it loads torch.
        damaged: is told what is wrong with the folder, and what it lacks though it is read.
        known: the run as the store knows it; None if it does not.
        sha256: of the lines of its epochs as the store knows them; empty if it does not.

    Raises:
        MachineError: the database cannot be read.
    """
    try:
        reason = folder.dropped()
        ended_run = read_ended_run(folder)
        mistakes = contradictions(folder, ended_run)
        contents = read_contents(folder, ended_run)
        lost = lost_environment(folder, ended_run)
        if known is None:  # a known run may have been asked for since it was dropped
            contents = dataclasses.replace(contents, dropped=reason)
            mistakes.extend(
                foreign_key(contents.plan, folder)
                if folder.has_sealed_plan()
                else foreign_plan(contents.plan, folder, keys)
            )
        elif ended_run is None and known.state in ENDED:
            mistakes.append(without_result(known))
        elif ended_run is not None and sha256 != ended_run.sha256:
            mistakes.extend(changed_epochs(folder, store.epochs(folder.key)))
        if known is not None and contents.evaluations:
            before = store.evaluations(folder.key)
            mistakes.extend(changed_evaluations(folder, contents.evaluations, before))
    except MachineError:  # no folder is to blame for it
        raise
    except KdctlError as error:
        damaged.extend(error.mistakes)
        return None
    damaged.extend(mistakes or lost)
    return None if mistakes else contents


def _read_sweeps(workspace: Workspace, damaged: list[Mistake]) -> dict[Path, StoredSweep]:
    """Return the sweeps that have a file, by that, oldest first."""
    found: dict[Path, StoredSweep] = {}
    try:
        paths = sweep_files(workspace.runs)
    except UnreadableError as error:
        damaged.extend(error.mistakes)
        return {}
    for path in paths:
        try:
            found[path] = read_sweep(path)
        except KdctlError as error:
            damaged.extend(error.mistakes)
    return dict(sorted(found.items(), key=lambda item: item[1].created))


def _ingested(store: Store, path: Path, damaged: list[Mistake]) -> bool:
    """Bring a sweep into the database; return whether that changed it. Its file may be gone by now.

    Raises:
        MachineError: the database cannot be written.
    """
    with noted(damaged):
        return ingest_sweep(store, path)
    return False


def _in_order(folders: list[RunFolder], sweeps: list[StoredSweep]) -> list[RunFolder]:
    """Return folders in the order in which their sweeps planned them, as reports show them; others last."""
    keys = [member.run_key for sweep in sweeps for member in sweep.members]
    places = {key: place for place, key in reversed(list(enumerate(keys)))}
    return sorted(folders, key=lambda folder: places.get(folder.key, len(places)))
