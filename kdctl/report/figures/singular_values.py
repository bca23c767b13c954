"""Singular values of a linear projector over training."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdctl.records import EpochResult
from kdctl.registry import NoOptions
from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.plotting import add_legend, add_title, new_figure
from kdctl.report.series import averaged_runs, choose_series, curve_words, subject_words

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
    means = [_means([epochs[run.key] for run in averaged_runs(item.group)]) for item in chosen.series]
    colours = _colours(rank for each in means for rank in each)
    handles: dict[str, Any] = {}
    for axes, item, curves in zip(places, chosen.series, means, strict=False):
        for rank, (numbers, values) in curves.items():
            (handles[f"no. {rank}"],) = axes.plot(numbers, values, color=colours[rank], linewidth=1.1)
        axes.set_title(" · ".join(word for word in (item.panel, item.name) if word))
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in places[len(chosen.series) :]:
        axes.set_visible(False)
    for axes in places[: len(chosen.series)][-columns:]:  # the lowest of each column
        axes.set_xlabel("epoch")
        axes.tick_params(labelbottom=True)
    for row in panels:
        row[0].set_ylabel("singular value")
    seeds = curve_words([item.group for item in chosen.series], what="mean")
    add_title(
        figure, "Singular values of the projector's weights", subject_words(data, told), seeds, chosen.note
    )
    ranks = list(colours)
    named = [f"no. {ranks[place]}" for place in sorted({0, len(ranks) // 2, len(ranks) - 1})] if ranks else []
    add_legend(figure, [handles[name] for name in named], named, "from the largest down")
    return figure


def _means(runs: Sequence[Sequence[EpochResult]]) -> dict[int, tuple[list[int], list[float]]]:
    """Return epochs and the mean of each value over runs, by the value's rank."""
    told = [{epoch.epoch: values for epoch in run if (values := _values(epoch))} for run in runs]
    common = sorted(set[int].intersection(*map(set, told)))
    known = [set(each[epoch]) for each in told for epoch in common]
    ranks = sorted(set[int].intersection(*known)) if known else []
    return {
        rank: (common, [statistics.fmean(each[epoch][rank] for each in told) for epoch in common])
        for rank in ranks
    }


def _colours(ranks: Iterable[int]) -> dict[int, Any]:
    """Return a colour for each rank, from the largest value down: the same in every panel."""
    every = sorted(set(ranks))
    shade = mpl.colormaps["cividis"]
    return {rank: shade(_LIGHTEST * place / max(1, len(every) - 1)) for place, rank in enumerate(every)}


def _values(epoch: EpochResult) -> Mapping[int, float]:
    """Return the singular values of an epoch by their ranks."""
    found = ((_NAME.fullmatch(name), value) for name, value in epoch.metrics.items())
    return {int(match[1]): value for match, value in found if match and 0 < value < math.inf}
