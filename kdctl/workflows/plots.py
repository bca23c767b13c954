"""Figures of what the store holds. Loads torch only for figures of what a model makes of images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, Mistake, UsageError
from kdctl.records import Selection
from kdctl.report.build import selection_of
from kdctl.report.figure import SUFFIXES, Features, FigureData, NothingToDrawError
from kdctl.report.shown_runs import by_role, only_where, teachers_of
from kdctl.store.atomic import write_atomically, written_together
from kdctl.text import one_or_several
from kdctl.workflows.reporting import chosen_runs, class_totals

_PICTURE = re.compile(r"invented\.epoch-(\d+)\.png")
"""Name of a picture that the engine writes of images that a method made."""


class Which(TypedDict, total=False):
    """Which runs are looked at."""

    sweep: str | Sequence[str] | None
    """Names of sweeps; the newest if not given."""
    everything: bool
    """All runs of the store."""
    where: str | Sequence[str]
    """Conditions that the runs meet, as 'method=kd'."""
    select: Selection | str | None
    """Which epoch's numbers count; if not given, as in the sweep's table: its recipe says, else the last."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What became of all figures."""

    files: tuple[Path, ...]
    left_out: tuple[Mistake, ...]
    """Figures for which the runs hold nothing, and what to do about it."""


def plot(
    kind: str,
    target: Path | str,
    workspace: Workspace,
    *,
    settings: str | Sequence[str] = (),
    force: bool = False,
    **which: Unpack[Which],
) -> None:
    """Draw one figure of a sweep, or of the newest one, into an SVG, PDF or PNG file.

    Args:
        kind: name of the figure.
        target: the file.
        workspace: whose store it is.
        settings: options of the figure, as 'top5=true'.
        force: overwrite the file.
        **which: runs it is about; see `Which`.

    Raises:
        KdctlError: no such figure, option, sweep or suffix, nothing to draw, or the file is there already.
    """
    from kdctl.report.plotting import draw, rendered  # noqa: PLC0415 - it loads matplotlib

    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise UsageError(
            f"{target}: no figure is written as '{target.suffix}'.", f"name it *{', *'.join(SUFFIXES)}."
        )
    require_free([target], force=force)
    data = figure_data(workspace, compute=True, **which)
    write_atomically(target, rendered(draw(kind, data, one_or_several(settings)), target.suffix))


def plot_all(
    folder: Path | str,
    workspace: Workspace,
    *,
    suffixes: Sequence[str] = SUFFIXES,
    force: bool = False,
    **which: Unpack[Which],
) -> Drawn:
    """Draw every figure that the runs of a sweep give, each as SVG, PDF and PNG.

    Raises:
        KdctlError: no such sweep, or a file is there already.
    """
    from kdctl.report.figure import figures  # noqa: PLC0415
    from kdctl.report.plotting import draw, rendered  # noqa: PLC0415 - it loads matplotlib

    folder = Path(folder)
    files = [folder / f"{name}{suffix}" for name in figures.names() for suffix in suffixes]
    require_free(files, force=force)
    data = figure_data(workspace, **which)
    drawn: list[Path] = []
    left_out: list[Mistake] = []
    with written_together() as write:
        for name in figures.names():
            try:
                figure = draw(name, data)
            except NothingToDrawError as error:
                left_out.append(Mistake(problem=f"{name}: {error.problem}", hint=error.hint))
                continue
            for suffix in suffixes:
                drawn.append(folder / f"{name}{suffix}")
                write(drawn[-1], rendered(figure, suffix))
    return Drawn(files=tuple(drawn), left_out=tuple(left_out))


def figure_data(
    workspace: Workspace,
    *,
    compute: bool = False,
    **which: Unpack[Which],
) -> FigureData:
    """Return what figures of a sweep, or of the newest one, are drawn from.

    Args:
        workspace: whose store it is.
        compute: whether models may be run for figures of what they make of images.
        **which: runs they are about.
    """
    store = workspace.store
    runs, sweeps = chosen_runs(store, which.get("sweep"), everything=which.get("everything", False))
    select = selection_of(which.get("select"), sweeps)
    students, teachers = by_role(runs, sweeps)
    where = one_or_several(which.get("where", ()))
    kept = only_where(students, where)
    return FigureData(
        runs=tuple(kept),
        teachers=tuple(teachers_of(kept, teachers) if where else teachers),
        totals=class_totals(kept),
        select=select,
        sweeps=tuple(sweep.name for sweep in sweeps),
        epochs=store.epochs,
        evaluations=store.evaluations,
        pictures=lambda key: _pictures(workspace.folder(key).path),
        features=_features(workspace, select) if compute else None,
    )


def require_free(files: Sequence[Path], *, force: bool) -> None:
    """Raise unless none of the files is there, or they may be overwritten."""
    taken = [path for path in files if path.exists()]
    if taken and not force:
        raise KdctlError(f"{taken[0]} is there already.", "name another, or say --force to overwrite.")


def _pictures(folder: Path) -> dict[int, Path]:
    """Return the pictures in a run's folder by epoch; none where there is no folder any more."""
    found = {path: _PICTURE.fullmatch(path.name) for path in folder.glob("*.png")}
    return {int(match[1]): path for path, match in found.items() if match}


def _features(workspace: Workspace, select: Selection) -> Callable[[str], Features]:
    def compute(key: str) -> Features:
        from kdctl.workflows.artifacts import features_of  # noqa: PLC0415 - it loads torch

        return features_of(key, workspace, selection=select)

    return compute
