"""Tables of what the store holds. Never loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError
from kdctl.records import Selection, StoredRun, StoredSweep
from kdctl.report.build import build_report
from kdctl.report.table_format import Table

if TYPE_CHECKING:
    import pandas as pd


def report(
    workspace: Workspace,
    *,
    sweep: str | None = None,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    select: Selection | None = None,
    spread: str = "sample",
) -> Table:
    """Return the mean ± std table of a sweep, or of the newest one.

    Raises:
        KdctlError: there is no such sweep, or nothing is finished yet.
    """
    runs, chosen = _chosen(workspace, sweep)
    return build_report(runs, chosen, rows=rows, columns=columns, select=select, spread=spread)


def frame(
    workspace: Workspace, *, sweep: str | None = None, select: Selection = Selection.LAST
) -> pd.DataFrame:
    """Return a tidy frame of a sweep, or of the newest one: one row per run, for analyses of your own.

    Raises:
        KdctlError: there is no such sweep, or nothing was run yet.
    """
    from kdctl.report.frame import run_frame  # noqa: PLC0415 - a report needs no pandas

    return run_frame(_chosen(workspace, sweep)[0], select)


def _chosen(workspace: Workspace, name: str | None) -> tuple[list[StoredRun], StoredSweep | None]:
    """Return the runs of a sweep; without a name of the newest, without any sweep all runs there are."""
    store = workspace.store
    sweeps = store.sweeps()
    if name is not None or sweeps:
        sweep = store.sweep(name) if name is not None else sweeps[0]
        return store.runs(sweep=sweep.name), sweep
    runs = store.runs()
    if not runs:
        raise KdctlError("the store holds no runs yet.", "run: kdctl sweep recipes/quickstart.toml")
    return runs, None
