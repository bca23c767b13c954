"""Whether database and folders are sound, and agree; and a copy of the database for when they are not."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, Mistake
from kdctl.files import UnreadableError, is_gone, open_file, unreadable
from kdctl.machine_errors import MachineError
from kdctl.records import ENDED, Artifact, RunState, StoredRun, StoredSweep
from kdctl.store.backup import complaints, copy_database
from kdctl.store.briefs import RunBrief
from kdctl.store.clock import utc_now
from kdctl.store.epoch_lines import sha256_of
from kdctl.store.faults import explained
from kdctl.store.folder import FolderSnapshot, RunFolder, run_folders
from kdctl.store.integrity import (
    EndedRun,
    changed_epochs,
    changed_evaluations,
    contradictions,
    lost_environment,
    read_ended_run,
)
from kdctl.store.json_files import to_json
from kdctl.store.removal import held_runs
from kdctl.store.store import Store
from kdctl.store.sweep_files import differs, read_sweep, sweep_files, sweep_path
from kdctl.workflows.plan_keys import KeysOfPlans, foreign_plan, same_plan

_READ = "read the folders into the database: `kdctl sync`."


@dataclass(frozen=True, kw_only=True)
class Health:
    """What a check found."""

    num_runs: int
    num_folders: int
    num_sweeps: int
    findings: tuple[Mistake, ...]
    """What is wrong, each with what to do about it; none, if all is well."""


def check(workspace: Workspace, *, hashes: bool = False) -> Health:
    """Look for damage in the database, in run folders and in sweep files, and for contradictions.

    Runs in work are not compared: their folder is always a little ahead.

    Args:
        workspace: where they are.
        hashes: read every checkpoint, too, and compare its SHA-256 with the one on record.
    """
    store, keys = workspace.store, KeysOfPlans()
    folders = {folder.key: folder for folder in run_folders(workspace.runs)}
    findings: list[Mistake] = []
    try:
        with explained(store.path):
            lines = complaints(store.path)
        hint = "move it away, and rebuild it from the run folders: `kdctl sync`."
        findings.extend(Mistake(problem=f"{store.path} is damaged: {line}.", hint=hint) for line in lines)
        briefs = {brief.key: brief for brief in store.briefs()}
        sweeps = {sweep.name: sweep for sweep in store.sweeps()}
        held = held_runs(store, [key for key, brief in briefs.items() if brief.state is RunState.RUNNING])
    except MachineError as error:  # nothing can be compared with such a database
        findings.extend(error.mistakes)
        return Health(num_runs=0, num_folders=len(folders), num_sweeps=0, findings=tuple(findings))
    findings.extend(_unknown(folders, briefs))
    for key, brief in briefs.items():
        if key not in held:
            try:
                findings.extend(_contradictions(workspace, brief, folders.get(key), keys, hashes=hashes))
            except KdctlError as error:
                findings.extend(error.mistakes)
    findings.extend(_sweeps(workspace, sweeps))
    return Health(
        num_runs=len(briefs),
        num_folders=len(folders),
        num_sweeps=len(sweeps),
        findings=tuple(findings),
    )


def _unknown(folders: dict[str, RunFolder], briefs: dict[str, RunBrief]) -> Iterator[Mistake]:
    for key in sorted(folders.keys() - briefs.keys()):
        yield Mistake(problem=f"the database does not know the run folder {key}.", hint=_READ)


def _contradictions(
    workspace: Workspace,
    brief: RunBrief,
    folder: RunFolder | None,
    keys: KeysOfPlans,
    *,
    hashes: bool,
) -> Iterator[Mistake]:
    """Compare what the database says of a run with its folder."""
    if folder is None:
        yield from without_folder(brief)
        return
    folder = FolderSnapshot(folder)
    planned, ended_run = folder.plan(), read_ended_run(folder)
    run = workspace.store.run(brief.key)
    compute = hashes or not same_plan(run.plan, planned.plan)  # a later version may have written the folder's
    altered = [
        *contradictions(folder, ended_run),
        *(foreign_plan(planned, folder, keys, is_known=keys.of(run.plan) == run.key) if compute else ()),
    ]
    if (run.seed, run.configuration) != (planned.seed, planned.configuration) or (
        compute and keys.of(run.plan) not in (None, run.key)
    ):
        problem = f"the database has another plan of run {run.key} than its folder."
        yield Mistake(problem=problem, hint=_rebuild(workspace.store))
    yield from altered or _other_epochs(workspace.store, folder, ended_run)
    environment = folder.environment()
    for read in (folder.failure, folder.dropped):
        read()  # nothing is compared; it raises where the file is damaged
    yield from changed_evaluations(folder, folder.evaluations(), workspace.store.evaluations(brief.key))
    if altered:
        return
    lost = lost_environment(folder, ended_run)
    yield from lost
    if not lost and ended_run is not None and environment != run.environment:
        yield Mistake(problem=f"run {brief.key} has another environment in its folder.", hint=_READ)
    yield from _other_end(workspace.store, brief, run, folder, ended_run)
    yield from _files(folder, ended_run.ending.artifacts if ended_run else (), hashes=hashes)


def _other_end(
    store: Store, brief: RunBrief, run: StoredRun, folder: RunFolder, ended_run: EndedRun | None
) -> Iterator[Mistake]:
    """Compare how a run ended, and after how many epochs, with what its folder says."""
    result = ended_run and ended_run.ending.result
    action = _rebuild(store) if brief.state in ENDED else _READ  # what has ended is final, and not read again
    if result is not None and result.state is not brief.state:
        problem = f"run {brief.key} is {brief.state.value}, but its folder says {result.state.value}."
        yield Mistake(problem=problem, hint=action)
    elif result is None and brief.state in ENDED:
        yield without_result(brief)
    elif result is not None and to_json(result) != to_json(run.result):
        yield Mistake(problem=f"run {brief.key} has another result in its folder.", hint=action)
    num_epochs = len(ended_run.epochs if ended_run else folder.epochs())
    if brief.state in ENDED and num_epochs != brief.epochs:
        problem = f"run {brief.key} has {brief.epochs} epochs, its folder {num_epochs}."
        yield Mistake(problem=problem, hint=action)


def _rebuild(store: Store) -> str:
    """Say how the database is made anew."""
    return f"rebuild it from the run folders: move {store.path} away, then `kdctl sync`."


def without_folder(brief: RunBrief) -> Iterator[Mistake]:
    """Say that a run that left something behind has lost its folder."""
    if brief.epochs or brief.state in ENDED:
        yield Mistake(
            problem=f"run {brief.key} ({brief.state.value}) has no folder any more.",
            hint=f"restore it from a copy, or remove the run: `kdctl runs rm {brief.key}`.",
        )


def without_result(brief: RunBrief) -> Mistake:
    """Say that a run that has ended has lost its result."""
    return Mistake(
        problem=f"run {brief.key} is {brief.state.value}, but its folder holds no result.json.",
        hint=f"restore the file from a copy, or remove the run: `kdctl runs rm {brief.key}`.",
    )


def _other_epochs(store: Store, folder: RunFolder, ended_run: EndedRun | None) -> Iterable[Mistake]:
    """Compare epochs one by one, but where all their lines are the same: thousands of runs have millions."""
    if ended_run is not None and sha256_of(store.history(folder.key)) == ended_run.sha256:
        return ()
    return changed_epochs(folder, store.epochs(folder.key))


def _files(folder: RunFolder, artifacts: Sequence[Artifact], *, hashes: bool) -> Iterator[Mistake]:
    """Look for the files that the run left behind."""
    for artifact in artifacts:
        path = folder.path / artifact.name
        hint = "restore it from a copy; the numbers of the run stand without it."
        if is_gone(path):
            yield Mistake(problem=f"{path} is missing.", hint=hint)
        elif _num_bytes(path) != artifact.num_bytes or (
            hashes and folder.artifact(artifact.name) != artifact
        ):
            yield Mistake(problem=f"{path} is not the file that the run left behind.", hint=hint)


def _num_bytes(path: Path) -> int:
    try:
        with open_file(path) as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise unreadable(path, error) from error


def _sweeps(workspace: Workspace, known: Mapping[str, StoredSweep]) -> Iterator[Mistake]:
    try:
        paths = sweep_files(workspace.runs)
    except UnreadableError as error:
        yield from error.mistakes
        return
    found: set[str] = set()
    for path in paths:
        try:
            sweep = read_sweep(path)
        except KdctlError as error:
            yield from error.mistakes
            continue
        found.add(sweep.name)
        if sweep.name not in known:
            yield Mistake(problem=f"the database does not know the sweep in {path}.", hint=_READ)
        elif differs(sweep, known[sweep.name]):
            yield Mistake(problem=f"{path} says something else of its sweep than the database.", hint=_READ)
    for name in sorted(known.keys() - found):
        path = sweep_path(workspace.runs, name)
        if is_gone(path):
            hint = "restore it from a copy; or run its recipe by `kdctl sweep` again, which writes the file."
            yield Mistake(
                problem=f"{path} is missing: without it, only the database has its sweep.", hint=hint
            )


def back_up(workspace: Workspace, target: Path | str | None = None, *, force: bool = False) -> Path:
    """Copy the database, also while others write to it, and check the copy.

    Args:
        workspace: whose database it is.
        target: the copy, in a folder that is there: a path below a disk that is not mounted should
            not end on another one. `backups/kdctl-<time>.db` beside the database, if not given.
        force: overwrite the file.

    Raises:
        KdctlError: the target's folder is missing, the file is there already, or the copy is not sound.
    """
    try:
        copy = _target(workspace, None if target is None else Path(target), force=force)
        copy_database(workspace.store.path, copy)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise KdctlError(
            f"{target or workspace.runs} cannot hold a copy: {why}.", "name another file."
        ) from error
    if found := complaints(copy):
        raise KdctlError(f"the copy {copy} is not sound: {found[0]}.", "check the disk; `kdctl db check`.")
    return copy


def _target(workspace: Workspace, target: Path | None, *, force: bool) -> Path:
    """Return where a copy of the database goes."""
    if target is not None and not target.parent.is_dir():
        raise KdctlError(
            f"there is no folder {target.parent} for {target.name}.",
            "make it first, or name another one; is the disk mounted?",
        )
    stamp = utc_now()[:19].replace(":", "").replace("-", "")
    copy = target or workspace.runs / "backups" / f"kdctl-{stamp}Z.db"
    if copy.is_dir():
        copy = copy / workspace.store.path.name
    itself = copy.exists() and copy.samefile(workspace.store.path)
    if itself or (copy.exists() and not force):
        raise KdctlError(
            f"{copy} is there already.",
            "name another file." if itself else "name another file, or say --force to overwrite it.",
        )
    return copy
