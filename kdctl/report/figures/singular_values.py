"""Singular values of a linear projector over training."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdctl.records import EpochResult
from kdctl.registry import NoOptions
from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.plotting import add_legend, add_title, new_figure
from kdctl.report.series import averaged_runs, choose_series, replicate_words, subject_words

_NAME = re.compile(r"singular_value_(\d+)")
"""What a run tells of its projector, followed by the rank of the value."""

_MOST_COLUMNS = 3
_LIGHTEST = 0.85
"""Of the colour map: its end would be too faint on white paper."""


@figures.register("singular_values", label="Singular values of the projector")
def draw_singular_values(data: FigureData, options: NoOptions) -> Figure:
    """Singular values of a linear projector over epochs, a panel for each norm or other setting.

    Figure 2 of Miles and Mikolajczyk, AAAI 2024, arXiv:2303.11098. For runs with method.watch_projector.
    """
    del options
    epochs = {run.key: data.epochs(run.key) for run in data.runs}
    told = [run for run in data.runs if any(_values(epoch) for epoch in epochs[run.key])]
    if not told:
        raise NothingToDrawError(
            "no run has told the singular values of its projector.",
            "train with --method projector -o method.watch_projector=true.",
        )
    chosen = choose_series(data, told)
    columns = min(_MOST_COLUMNS, len(chosen.series))
    rows = -(-len(chosen.series) // columns)
    figure, panels = new_figure(rows, columns, panel=(2.7, 2.3), sharex=True, sharey=True)
    places = [axes for row in panels for axes in row]
    handles: dict[str, Any] = {}
    for axes, item in zip(places, chosen.series, strict=False):
        handles |= _draw(axes, [epochs[run.key] for run in averaged_runs(item.group)])
        axes.set_title(" · ".join(word for word in (item.panel, item.name) if word))
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in places[len(chosen.series) :]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel("singular value")
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    seeds = replicate_words([item.group for item in chosen.series], what="mean")
    add_title(
        figure, "Singular values of the projector's weights", subject_words(data, told), seeds, chosen.note
    )
    add_legend(figure, list(handles.values()), list(handles), "from the largest down")
    return figure


def _draw(axes: Axes, runs: Sequence[Sequence[EpochResult]]) -> dict[str, Any]:
    """Draw the mean of each value over runs; return the lines by their ranks."""
    told = [{epoch.epoch: values for epoch in run if (values := _values(epoch))} for run in runs]
    common = sorted(set[int].intersection(*map(set, told)))
    known = [set(each[epoch]) for each in told for epoch in common]
    ranks = sorted(set[int].intersection(*known)) if known else []
    colours = mpl.colormaps["cividis"]
    lines: dict[str, Any] = {}
    for place, rank in enumerate(ranks):
        means = [statistics.fmean(each[epoch][rank] for each in told) for epoch in common]
        share = place / max(1, len(ranks) - 1)
        (line,) = axes.plot(common, means, color=colours(_LIGHTEST * share), linewidth=1.1)
        if place in {0, len(ranks) // 2, len(ranks) - 1}:
            lines[f"no. {rank}"] = line
    return lines


def _values(epoch: EpochResult) -> Mapping[int, float]:
    """Return the singular values of an epoch by their ranks."""
    found = ((_NAME.fullmatch(name), value) for name, value in epoch.metrics.items())
    return {int(match[1]): value for match, value in found if match and 0 < value < math.inf}
