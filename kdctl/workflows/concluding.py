"""What a sweep that is complete leaves for people: its table, its curves and its page. Never loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdctl.assembly.workspace import Workspace
from kdctl.report.figure import NothingToDrawError
from kdctl.report.table_format import Table
from kdctl.store.atomic import write_atomically
from kdctl.store.sweep_files import sweep_path
from kdctl.workflows.paging import html_page
from kdctl.workflows.plots import plot
from kdctl.workflows.reporting import report

FOLDER = "reports"
"""Below the folder of runs."""

CURVES = "accuracy_curves"
"""The figure that is written as a file of its own; the page has the others, too."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What there is to look at."""

    table: Table
    page: Path
    """The report as one HTML file."""
    picture: Path | None
    """Accuracy over epochs, as PNG; None where no run has epochs to draw."""


def conclude(name: str, workspace: Workspace) -> Conclusion | None:
    """Write page and picture of a sweep whose recipe asks for them (`[report] page`), over older ones.

    Args:
        name: of a sweep in which a run has finished.
        workspace: whose store it is; files are written below its runs.

    Returns:
        The table and the files; None where the recipe does not ask for them.

    Raises:
        KdctlError: there is no such sweep.
        MachineError: the files cannot be written.
    """
    if not workspace.store.sweep(name).recipe.get("report", {}).get("page"):
        return None
    stem = sweep_path(workspace.runs, name).stem
    page, picture = (workspace.runs / FOLDER / f"{stem}{suffix}" for suffix in (".html", ".png"))
    table = report(workspace, sweep=name)
    write_atomically(page, html_page([table], workspace, sweep=name).encode())
    try:
        plot(CURVES, picture, workspace, sweep=name, force=True)
    except NothingToDrawError:
        return Conclusion(table=table, page=page, picture=None)
    return Conclusion(table=table, page=page, picture=picture)
