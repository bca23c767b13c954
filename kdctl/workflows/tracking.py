"""Runs of the store, for the trackers that a lab looks at. Never loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from kdctl.assembly.workspace import Workspace
from kdctl.records import StoredRun
from kdctl.report.fields import distinguishing_fields, short_names
from kdctl.report.tracker import TrackedRun, trackers
from kdctl.report.wording import settings_of
from kdctl.workflows.plots import Which, figure_data

ALONE = "kdctl"
"""Group of runs that belong to no sweep."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written for another program."""

    num_runs: int
    command: str
    """What shows it, quoted for a shell; empty if the tracker names none, or nothing was written."""


def export_runs(tracker: str, folder: Path | str, workspace: Workspace, **which: Unpack[Which]) -> int:
    """Do what `export_to_tracker` does; return how many runs these are."""
    return export_to_tracker(tracker, folder, workspace, **which).num_runs


def export_to_tracker(
    tracker: str, folder: Path | str, workspace: Workspace, **which: Unpack[Which]
) -> Exported:
    """Write the runs of a sweep, or of the newest one, for another program.

    Args:
        tracker: 'tensorboard', 'mlflow' or 'wandb'.
        folder: made if need be; what an earlier export wrote there is replaced.
        workspace: whose store it is.
        **which: runs to write; see `Which`. A run of several sweeps is written as one of those that are
            named, or of the newest.

    Raises:
        KdctlError: no such tracker or sweep, or the tracker's package is missing.
    """
    export = trackers.get(tracker).item
    data = figure_data(workspace, **which)
    begun = [run for run in (*data.teachers, *data.runs) if run.epochs or run.result is not None]
    names = data.sweeps or [sweep.name for sweep in workspace.store.sweeps()]
    sweeps = workspace.store.sweeps_of(run.key for run in begun)
    fields = distinguishing_fields([run.plan for run in begun]) if begun else []
    command = export(
        [
            TrackedRun(
                run=run,
                name=_name(run, fields),
                group=next((name for name in names if name in sweeps.get(run.key, ())), ALONE),
                epochs=tuple(data.epochs(run.key)),
                evaluations=tuple(data.evaluations(run.key)),
            )
            for run in begun
        ],
        Path(folder),
    )
    return Exported(num_runs=len(begun), command=(command or "") if begun else "")


def _name(run: StoredRun, fields: Sequence[str]) -> str:
    return ", ".join([*settings_of(run.plan, fields, short_names(fields)), f"seed {run.seed}"])
