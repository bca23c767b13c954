"""Copying runs to another folder: to publish them, or to look at them on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdctl.assembly.workspace import Workspace
from kdctl.errors import Mistake, UsageError
from kdctl.files import is_gone, resolved
from kdctl.machine_errors import noted
from kdctl.records import ENDED, SETTLED, RunState
from kdctl.store.briefs import RunBrief
from kdctl.store.integrity import changed_evaluations
from kdctl.store.run_copy import copy_run
from kdctl.store.sweep_files import copy_sweep
from kdctl.workflows.checking import without_folder, without_result

COPIED = SETTLED | {RunState.FAILED}
"""States in which nothing more is written to the folder of a run, unless somebody starts it again."""


@dataclass(frozen=True, kw_only=True)
class CopyReport:
    """What was copied, and what was not."""

    copied: tuple[RunBrief, ...]
    there: tuple[RunBrief, ...]
    """Runs of which the same lay there already."""
    unfinished: tuple[RunBrief, ...]
    """Runs that have not ended, or never began."""
    refused: tuple[Mistake, ...]
    """Why runs or sweeps could not be copied."""


def copy_runs(
    workspace: Workspace,
    target: Path | str,
    prefixes: Sequence[str] = (),
    *,
    sweeps: Sequence[str] = (),
    checkpoints: bool = False,
) -> CopyReport:
    """Copy the folders of runs that have ended, and the files of sweeps; nothing there is replaced.

    `synchronise` makes a store of the copy, from which everything is reported as from the first one.

    Args:
        workspace: where the runs are.
        target: the folder that gets them; made if need be.
        prefixes: of the keys of runs. The teachers of a run come with it.
        sweeps: names of sweeps, whose members and teachers are copied.
        checkpoints: copy models, too, so that they can teach and be evaluated there.

    Raises:
        UsageError: neither runs nor sweeps are named, or the target is the store itself.
        KdctlError: there is no such run or sweep.
        MachineError: the target cannot be written.
    """
    root = Path(target)
    if not prefixes and not sweeps:
        raise UsageError("nothing is named that could be copied.", "name runs, or a sweep: --sweep NAME.")
    if resolved(root) == resolved(workspace.runs):
        raise UsageError(f"{root} is where these runs are.", "name another folder.")
    copied: list[RunBrief] = []
    there: list[RunBrief] = []
    unfinished: list[RunBrief] = []
    refused: list[Mistake] = []
    for run in _chosen(workspace, prefixes, sweeps):
        if run.state not in COPIED:
            unfinished.append(run)
            continue
        with noted(refused):
            if lost := _lost(workspace, run):
                refused.extend(lost)
                continue
            is_new = copy_run(workspace.folder(run.key), root, checkpoints=checkpoints)
            (copied if is_new else there).append(run)
    for name in sweeps:
        with noted(refused):
            copy_sweep(workspace.store, root, name)
    return CopyReport(
        copied=tuple(copied), there=tuple(there), unfinished=tuple(unfinished), refused=tuple(refused)
    )


def _lost(workspace: Workspace, run: RunBrief) -> list[Mistake]:
    """Name what is known of a run that has ended and its folder does not hold any more.

    Raises:
        KdctlError: a file cannot be read, or is damaged.
    """
    folder = workspace.folder(run.key)
    if is_gone(folder.path):
        return list(without_folder(run))
    if run.state in ENDED and folder.ending() is None:
        return [without_result(run)]
    return changed_evaluations(folder, folder.evaluations(), workspace.store.evaluations(run.key))


def _chosen(workspace: Workspace, prefixes: Sequence[str], sweeps: Sequence[str]) -> list[RunBrief]:
    """Return the runs that are named, those of the sweeps, and the teachers of either; oldest first."""
    store = workspace.store
    named = {store.run(prefix).key for prefix in prefixes}
    named |= {member.run_key for name in sweeps for member in store.sweep(name).members}
    known = store.briefs()
    students = store.students_of([run.key for run in known])
    teachers = {teacher for teacher, taught in students.items() if not named.isdisjoint(taught)}
    return [run for run in known if run.key in named | teachers]
