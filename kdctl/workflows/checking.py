"""Whether database and folders are sound, and agree; and a copy of the database for when they are not."""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, Mistake
from kdctl.files import UnreadableError, is_gone, open_file, unreadable
from kdctl.machine_errors import MachineError
from kdctl.recipe.imported import ImportedPlan, is_imported
from kdctl.recipe.plan import RunPlan, key_of
from kdctl.recipe.sections import Catalog
from kdctl.recipe.stored import is_plan, read_any
from kdctl.records import Artifact, PlannedRun, RunState
from kdctl.store.backup import complaints, copy_database
from kdctl.store.briefs import RunBrief
from kdctl.store.clock import utc_now
from kdctl.store.epoch_lines import sha256_of
from kdctl.store.folder import RunFolder, run_folders
from kdctl.store.integrity import EndedRun, changed_epochs, contradictions, read_ended_run
from kdctl.store.json_files import to_json
from kdctl.store.removal import held_runs
from kdctl.store.store import Store
from kdctl.store.sweep_files import read_sweep, sweep_files

_READ = "read the folders into the database: `kdctl sync`."
_ENDED = (RunState.FINISHED, RunState.DIVERGED)


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
    findings = [
        Mistake(
            problem=f"{store.path} is damaged: {line}.",
            hint="move it away, and rebuild it from the run folders: `kdctl sync`.",
        )
        for line in complaints(store.path)
    ]
    try:
        briefs = {brief.key: brief for brief in store.briefs()}
        sweeps = {sweep.name for sweep in store.sweeps()}
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
    for key in folders.keys() - briefs.keys():
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
        if brief.epochs or brief.state in _ENDED:
            yield Mistake(
                problem=f"run {brief.key} ({brief.state.value}) has no folder any more.",
                hint=f"restore it from a copy, or remove the run: `kdctl runs rm {brief.key}`.",
            )
        return
    planned, ended_run = folder.plan(), read_ended_run(folder)
    run = workspace.store.run(brief.key)
    altered = [
        *contradictions(folder, ended_run),
        *(foreign_plan(planned, folder, keys) if hashes else ()),
    ]
    if (run.seed, run.configuration) != (planned.seed, planned.configuration) or (
        hashes and keys.of(run.plan) not in (None, run.key)
    ):
        yield Mistake(
            problem=f"the database has another plan of run {run.key} than its folder.",
            hint=f"rebuild it from the run folders: move {workspace.store.path} away, then `kdctl sync`.",
        )
    yield from altered or _other_epochs(workspace.store, folder, ended_run)
    for readable in (folder.environment, folder.evaluations, folder.failure, folder.dropped):
        readable()
    if altered:
        return
    result, num_epochs = (
        ended_run and ended_run.ending.result,
        len(ended_run.epochs if ended_run else folder.epochs()),
    )
    if result is not None and result.state is not brief.state:
        yield Mistake(
            problem=f"run {brief.key} is {brief.state.value}, but its folder says {result.state.value}.",
            hint=_READ,
        )
    elif result is None and brief.state in _ENDED:
        yield Mistake(
            problem=f"run {brief.key} is {brief.state.value}, but its folder holds no result.json.",
            hint=f"restore the file from a copy, or remove the run: `kdctl runs rm {brief.key}`.",
        )
    elif result is not None and to_json(result) != to_json(run.result):
        yield Mistake(problem=f"run {brief.key} has another result in its folder.", hint=_READ)
    if brief.state in _ENDED and num_epochs != brief.epochs:
        problem = f"run {brief.key} has {brief.epochs} epochs, its folder {num_epochs}."
        yield Mistake(problem=problem, hint=_READ)
    yield from _files(folder, ended_run.ending.artifacts if ended_run else (), hashes=hashes)


def _other_epochs(store: Store, folder: RunFolder, ended_run: EndedRun | None) -> Iterable[Mistake]:
    """Compare epochs one by one, but where all their lines are the same: thousands of runs have millions."""
    if ended_run is not None and sha256_of(store.history(folder.key)) == ended_run.sha256:
        return ()
    return changed_epochs(folder, store.epochs(folder.key))


class KeysOfPlans:
    """Computes the keys of stored plans anew; those that differ in their seed are read once.

    The catalog, which loads torch, is made when the first key is asked for.
    """

    def __init__(self) -> None:
        """Know no plan yet."""
        self._read: dict[str, RunPlan | ImportedPlan | None] = {}

    def of(self, plan: Mapping[str, Any]) -> str | None:
        """Return the key that a plan has; None if that is not known here, empty if it is no plan."""
        if not is_plan(plan):
            return ""
        text = to_json({**plan, "seed": 0})
        if text not in self._read:
            try:
                self._read[text] = read_any(plan, self._catalog)
            except ValueError:
                return ""
        known = self._read[text]
        if isinstance(known, RunPlan):
            known = known.with_seed(plan["seed"])
        return known and known.key

    @functools.cached_property
    def _catalog(self) -> Catalog:
        from kdctl.assembly.catalog import full_catalog  # noqa: PLC0415 - loads torch

        return full_catalog()


def foreign_plan(planned: PlannedRun, folder: RunFolder, keys: KeysOfPlans) -> Iterator[Mistake]:
    """Compute a run's key anew from its plan, and compare it with the one it goes by.

    A plan whose plug-in is not loaded, or that another version wrote, is taken as it is.
    """
    yield from _foreign(planned, folder, keys.of(planned.plan))


def foreign_key(planned: PlannedRun, folder: RunFolder) -> Iterator[Mistake]:
    """Hold a run's key against its configuration and its seed, for which no plug-in need be loaded.

    That is enough for a plan that lies there with its checksum, as it was written.
    """
    plan, configuration = planned.plan, planned.configuration
    key = "" if not is_plan(plan) else configuration if is_imported(plan) else None
    yield from _foreign(planned, folder, key_of(configuration, planned.seed) if key is None else key)


def _foreign(planned: PlannedRun, folder: RunFolder, key: str | None) -> Iterator[Mistake]:
    if (key is not None and key != folder.key) or planned.plan.get("seed") != planned.seed:
        yield Mistake(
            problem=f"{folder.path} is not run {folder.key}: its plan.json was altered.",
            hint=f"restore the file from a copy, or remove the run: `kdctl runs rm {folder.key}`.",
        )


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


def _sweeps(workspace: Workspace, known: set[str]) -> Iterator[Mistake]:
    try:
        paths = sweep_files(workspace.runs)
    except UnreadableError as error:
        yield from error.mistakes
        return
    for path in paths:
        try:
            name = read_sweep(path).name
        except KdctlError as error:
            yield from error.mistakes
            continue
        if name not in known:
            yield Mistake(problem=f"the database does not know the sweep in {path}.", hint=_READ)


def back_up(workspace: Workspace, target: Path | None = None, *, force: bool = False) -> Path:
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
        copy = _target(workspace, target, force=force)
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
