"""Values over epochs, with a band over seeds: what figures of curves share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdctl.records import EpochResult
from kdctl.report.figure import FigureData, NothingToDrawError
from kdctl.report.plotting import Look, add_legend, add_title, looks, new_figure
from kdctl.report.series import Chosen, Series, averaged_runs, choose_series, curve_words, subject_words

Read = Callable[[EpochResult], float | None]
Split = Literal["test", "val", "train"]

BAND_OPACITY = 0.2

_OTHER_ORDER = 30.0
"""From this ratio of the highest values of two panels on, the lower ones lie flat at the bottom."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What is drawn over epochs in one row of panels."""

    label: str
    """Of the y axis, with its unit."""
    read: Read


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The mean over replicates at each epoch that all of them reached."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Sample standard deviations; 0 for a single run."""
    single: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]
    """Each run's epochs and values."""


def draw_curves(
    data: FigureData,
    quantities: Sequence[Quantity],
    *,
    title: str,
    single_seeds: bool,
    log: bool | None = False,
) -> Figure:
    """Return one row of panels for each quantity, one column for each panel of the series.

    With `log` None an axis is logarithmic where its panels have values of different orders.

    Raises:
        NothingToDrawError: no run has an epoch.
    """
    runs = [run for run in data.runs if run.epochs]
    if not runs:
        raise NothingToDrawError("no run has an epoch to draw.", "train first: `kdctl sweep RECIPE`.")
    chosen = choose_series(data, runs)
    epochs = {run.key: data.epochs(run.key) for item in chosen.series for run in item.group.runs}
    shown = [
        item
        for item in quantities
        if any(item.read(epoch) is not None for each in epochs.values() for epoch in each)
    ]
    figure, panels = new_figure(len(shown), len(chosen.panels), panel=(2.9, 2.1), sharex=True, sharey="row")
    style = dict(zip(chosen.names, looks(len(chosen.names)), strict=True))
    handles: dict[str, Any] = {}
    for row, quantity in zip(panels, shown, strict=True):
        for axes, panel in zip(row, chosen.panels, strict=True):
            for item in chosen.series:
                if item.panel == panel:
                    curve = _curve(item, epochs, quantity.read)
                    handles.setdefault(
                        item.name, _draw(axes, curve, style[item.name], single_seeds=single_seeds)
                    )
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if _is_log(row) if log is None else log:
            for axes in row:
                axes.set_yscale("log")
        row[0].set_ylabel(quantity.label)
    for axes, panel in zip(panels[0], chosen.panels, strict=True):
        axes.set_title(panel)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    _finish(figure, data, chosen, handles, title, single_seeds=single_seeds)
    return figure


def _is_log(row: Sequence[Axes]) -> bool:
    values = [[float(y) for line in axes.lines for y in np.asarray(line.get_ydata())] for axes in row]
    highest = [max(each) for each in values if each]
    lowest = min((min(each) for each in values if each), default=0.0)
    return lowest > 0 and max(highest) / min(highest) >= _OTHER_ORDER


def _finish(
    figure: Figure,
    data: FigureData,
    chosen: Chosen,
    handles: dict[str, Any],
    title: str,
    *,
    single_seeds: bool,
) -> None:
    groups = [item.group for item in chosen.series]
    seeds = curve_words(groups, what="mean" if single_seeds else "mean, band: ± sample std")
    thin = "; thin lines: single seeds" if single_seeds else ""
    add_title(figure, title, subject_words(data), f"{seeds}{thin}", chosen.note)
    names = [name for name in chosen.names if name in handles]
    if len(names) > 1:
        add_legend(figure, [handles[name] for name in names], names)


def _curve(item: Series, epochs: dict[str, Sequence[EpochResult]], read: Read) -> Curve:
    """Average finished runs, or else whatever runs there are, as far as all of them reached."""
    values = [
        {
            epoch.epoch: value
            for epoch in epochs[run.key]
            if (value := read(epoch)) is not None and math.isfinite(value)
        }
        for run in averaged_runs(item.group)
    ]
    common = sorted(set.intersection(*(set(each) for each in values))) if values else []
    columns = [[each[epoch] for each in values] for epoch in common]
    return Curve(
        epochs=tuple(common),
        mean=tuple(statistics.fmean(column) for column in columns),
        std=tuple(statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns),
        single=tuple((tuple(each), tuple(each.values())) for each in values),
    )


def _draw(axes: Axes, curve: Curve, look: Look, *, single_seeds: bool) -> Any:
    if single_seeds:
        for numbers, values in curve.single:
            axes.plot(numbers, values, color=look.colour, linewidth=0.6, alpha=0.6)
    elif any(curve.std):
        low = [mean - std for mean, std in zip(curve.mean, curve.std, strict=True)]
        high = [mean + std for mean, std in zip(curve.mean, curve.std, strict=True)]
        axes.fill_between(curve.epochs, low, high, color=look.colour, alpha=BAND_OPACITY, linewidth=0)
    # Markers at a few epochs: lines of one colour and style are told apart in black and white.
    every = max(1, len(curve.epochs) // 6)
    (line,) = axes.plot(
        curve.epochs,
        curve.mean,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markevery=every,
        markersize=3.5,
    )
    return line
