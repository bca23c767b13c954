"""The report as one HTML file, and what a sweep that is complete leaves for people. Never loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kdctl.assembly.workspace import Workspace
from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.table_format import Table
from kdctl.store.atomic import write_atomically
from kdctl.store.sweep_files import sweep_path
from kdctl.workflows.plots import Which, figure_data, plot
from kdctl.workflows.reporting import report

if TYPE_CHECKING:
    from kdctl.report.page.write import Picture


_MOST_NAMED = 3
"""Sweeps in the title of a page."""


def html_page(tables: Sequence[Table], workspace: Workspace, **which: Unpack[Which]) -> str:
    """Return tables, curves, figures, runs and recipes of sweeps as one HTML file that needs nothing else.

    Args:
        tables: as `report` gave them; they come first.
        workspace: whose store it is.
        **which: runs it is about; see `Which`.

    Raises:
        KdctlError: there is no such sweep, or nothing was run yet.
    """
    data = figure_data(workspace, **which)
    return _page(tables, data, workspace, data.sweeps or _sweeps_of(workspace, data))


def _page(tables: Sequence[Table], data: FigureData, workspace: Workspace, known: Sequence[str]) -> str:
    from kdctl.report.page.encode import encode_columns, encode_curves  # noqa: PLC0415 - they load numpy
    from kdctl.report.page.run_list import run_list  # noqa: PLC0415
    from kdctl.report.page.write import Page, write_page  # noqa: PLC0415
    from kdctl.report.series import subject_words  # noqa: PLC0415
    from kdctl.text import plural  # noqa: PLC0415

    runs = (*data.runs, *data.teachers)
    return write_page(
        Page(
            title=f"kdctl: {_named(known)}",
            subtitle=f"{plural(len(data.runs), 'run')}; {subject_words(data)}",
            tables=tuple(tables),
            run_table=run_list(runs, data.select),
            pictures=_pictures(data),
            recipes={name: workspace.store.sweep(name).recipe for name in known},
            keys=tuple(run.key for run in runs),
            run_columns=encode_columns(runs),
            curves=encode_curves(runs, [data.epochs(run.key) for run in runs]),
        )
    )


def _named(sweeps: Sequence[str]) -> str:
    """Name a few sweeps, and say how many more there are."""
    more = f" and {len(sweeps) - _MOST_NAMED} more" if len(sweeps) > _MOST_NAMED else ""
    return f"{', '.join(sweeps[:_MOST_NAMED])}{more}" if sweeps else "all runs"


def _sweeps_of(workspace: Workspace, data: FigureData) -> list[str]:
    """Return the names of the sweeps that hold one of the runs."""
    found = workspace.store.sweeps_of(run.key for run in data.runs)
    return sorted({name for each in found.values() for name in each})


def _pictures(data: FigureData) -> tuple[Picture, ...]:
    """Draw every figure that the runs give."""
    from kdctl.report.page.write import Picture  # noqa: PLC0415
    from kdctl.report.plotting import draw, rendered  # noqa: PLC0415 - it loads matplotlib

    drawn: list[Picture] = []
    for entry in figures.entries():
        try:
            figure = draw(entry.name, data)
        except NothingToDrawError:
            continue
        drawn.append(Picture(title=entry.label, svg=rendered(figure, ".svg").decode()))
    return tuple(drawn)


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
