"""Tables of what the store holds. Never loads torch."""

from __future__ import annotations

from collections.abc import Sequence

from kdctl.errors import KdctlError
from kdctl.records import Selection
from kdctl.report.build import build_report
from kdctl.report.table_format import Table
from kdctl.workflows.workspace import Workspace


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
    store = workspace.store
    sweeps = store.sweeps()
    if sweep is None and not sweeps:
        runs = store.runs()
        if not runs:
            raise KdctlError("the store holds no runs yet.", "run: kdctl sweep recipes/quickstart.toml")
        return build_report(runs, rows=rows, columns=columns, select=select, spread=spread)
    chosen = store.sweep(sweep) if sweep is not None else sweeps[0]
    runs = store.runs(sweep=chosen.name)
    return build_report(runs, chosen, rows=rows, columns=columns, select=select, spread=spread)
