"""Removing runs, and freeing the checkpoints of runs whose results are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdctl.assembly.failure import named_runs
from kdctl.assembly.workspace import Workspace
from kdctl.errors import Mistake, SeveralError
from kdctl.files import size_of
from kdctl.machine_errors import noted
from kdctl.records import SETTLED, Selection
from kdctl.store.briefs import RunBrief
from kdctl.store.removal import finish_removals, free_files, held_runs, remove_run
from kdctl.text import plural

CHECKPOINTS = "*.pt"
LEFTOVERS = ".*.tmp"
"""What a writer that was killed leaves behind."""


class RefusedRemovalError(SeveralError):
    """Runs that are not removed, or files that are not deleted, all reasons at once."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Runs that are about to be removed."""

    runs: tuple[RunBrief, ...]
    num_bytes: int
    """What their folders hold."""


@dataclass(frozen=True, kw_only=True)
class Freed:
    """Files of one run that are about to be deleted."""

    run: RunBrief
    files: Mapping[str, int]
    """Name -> bytes."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Checkpoints of one run that stay, and why."""

    run: RunBrief
    num_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What freeing checkpoints will do."""

    freed: tuple[Freed, ...]
    kept: tuple[Kept, ...]

    @property
    def num_bytes(self) -> int:
        """How much will be free."""
        return sum(sum(item.files.values()) for item in self.freed)


def plan_removal(workspace: Workspace, prefixes: Sequence[str], *, force: bool = False) -> Removal:
    """Find the runs to be removed.

    Args:
        workspace: where they are.
        prefixes: of their keys.
        force: remove teachers, too, that other runs were or will be taught by.

    Raises:
        KdctlError: a run does not exist; a living process works on it or on its sweep; other runs
            need it as a teacher.
    """
    store = workspace.store
    keys = list(dict.fromkeys(store.run(prefix).key for prefix in prefixes))
    mistakes = [*_in_work(workspace, keys), *([] if force else _needed(workspace, keys))]
    if mistakes:
        raise RefusedRemovalError(mistakes)
    return Removal(
        runs=tuple(store.briefs(keys=keys)),
        num_bytes=sum(size_of(path) for key in keys for path in workspace.folder(key).path.rglob("*")),
    )


def remove(workspace: Workspace, removal: Removal) -> None:
    """Remove runs with their folders; killed in between, the next call or a sync finishes it.

    Raises:
        KdctlError: a process has taken one of them up meanwhile, or one cannot be removed: the others are.
    """
    finish_removals(workspace.store, workspace.runs)
    mistakes: list[Mistake] = []
    for run in removal.runs:
        with noted(mistakes, raised_of=str(workspace.store.path)):
            remove_run(workspace.store, workspace.runs, run.key)
    if mistakes:
        raise RefusedRemovalError(mistakes)


def plan_collection(
    workspace: Workspace, *, sweep: str | None = None, keep_last: bool = False, teachers: bool = False
) -> Collection:
    """Find the checkpoints that results do not need.

    Runs that have not ended keep everything, for they go on from it. A teacher keeps its last model,
    unless `teachers` says otherwise and no unfinished run is taught by it.

    Args:
        workspace: where the runs are.
        sweep: only its runs.
        keep_last: keep every run's last model, and free the best ones only.
        teachers: free the last models of teachers, too.

    Raises:
        KdctlError: there is no such sweep.
    """
    store = workspace.store
    runs = store.briefs(sweep=sweep)
    held = held_runs(store, [run.key for run in runs if run.state not in SETTLED])
    students = store.students_of([run.key for run in runs])
    states = store.states({student for keys in students.values() for student in keys})
    freed: list[Freed] = []
    kept: list[Kept] = []
    for run in runs:
        folder = workspace.folder(run.key).path
        files = {} if run.key in held else _files(folder, LEFTOVERS)
        checkpoints = _files(folder, CHECKPOINTS)
        waiting = sum(states[key] not in SETTLED for key in students.get(run.key, ()))
        reason = _reason(run, is_teacher=run.key in students and not teachers, waiting=waiting)
        if not reason or run.state in SETTLED:
            spared = {f"{Selection.LAST.value}.pt"} if reason or keep_last else set[str]()
            files |= {name: size for name, size in checkpoints.items() if name not in spared}
        if reason and (size := sum(checkpoints[name] for name in checkpoints.keys() - files.keys())):
            kept.append(Kept(run=run, num_bytes=size, reason=reason))
        if files:
            freed.append(Freed(run=run, files=files))
    return Collection(freed=tuple(freed), kept=tuple(kept))


def collect(workspace: Workspace, collection: Collection) -> None:
    """Delete the files, and those of runs whose removal was killed before its end.

    Raises:
        KdctlError: a process has taken one of the runs up meanwhile, its folder is damaged, or a file cannot
            be deleted: those of the others are.
    """
    finish_removals(workspace.store, workspace.runs)
    mistakes: list[Mistake] = []
    for item in collection.freed:
        with noted(mistakes, raised_of=str(workspace.store.path)):
            free_files(workspace.store, workspace.folder(item.run.key), list(item.files))
    if mistakes:
        raise RefusedRemovalError(mistakes)


def _in_work(workspace: Workspace, keys: Sequence[str]) -> list[Mistake]:
    """Say which runs a living process works on, or plans to: it would miss them."""
    store = workspace.store
    sweeps = {name for names in store.sweeps_of(keys).values() for name in names}
    members = [member.run_key for name in sorted(sweeps) for member in store.sweep(name).members]
    held = held_runs(store, dict.fromkeys((*keys, *members)))
    owners = {owner: key for key, owner in reversed(held.items())}
    return [
        Mistake(
            problem=f"process {owner.pid} on {owner.host} works on run {key}"
            + ("." if key in keys else ", which is of the same sweep."),
            hint="stop that process first (Ctrl-C saves its state), or wait for it.",
        )
        for owner, key in owners.items()
    ]


def _needed(workspace: Workspace, keys: Sequence[str]) -> list[Mistake]:
    """Say which runs are teachers of others that stay."""
    store = workspace.store
    students = {
        teacher: [student for student in found if student not in keys]
        for teacher, found in store.students_of(keys).items()
    }
    states = store.states({student for found in students.values() for student in found})
    mistakes: list[Mistake] = []
    for teacher, found in students.items():
        if found:
            unfinished = sum(states[student] not in SETTLED for student in found)
            words = f", of which {unfinished} not finished" if unfinished else ""
            mistakes.append(
                Mistake(
                    problem=f"run {teacher} is the teacher of {named_runs(found)}{words}.",
                    hint="remove those too, or say --force: what needs it later trains or imports it again.",
                )
            )
    return mistakes


def _reason(run: RunBrief, *, is_teacher: bool, waiting: int) -> str:
    if run.state not in SETTLED:
        return f"{run.state.value}: it goes on from them"
    if waiting:
        return f"the teacher of {plural(waiting, 'unfinished run')}"
    return "a teacher (--teachers)" if is_teacher else ""


def _files(folder: Path, pattern: str) -> dict[str, int]:
    return {path.name: size_of(path) for path in sorted(folder.glob(pattern))}
