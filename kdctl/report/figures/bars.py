"""Accuracy by loss, method or any other setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdctl.report.fields import distinguishing_fields, known_fields, resolve_field
from kdctl.report.figure import FigureData, figures
from kdctl.report.plotting import Look, add_legend, add_title, looks, new_figure
from kdctl.report.series import (
    Series,
    best_of,
    counted_groups,
    divide,
    error_of,
    measured,
    replicate_words,
    selection_words,
    subject_words,
    summaries,
)
from kdctl.report.wording import words_in_common
from kdctl.text import plural

MOST_LABELS = 16
"""So many bars have their numbers written on them."""

_LABEL_POINTS = 16.0
"""Width of such a number: on narrower bars they would run into each other."""

_SHARE_OF_AXES = 0.9
"""Of a figure's width; the rest is for what stands beside the axis."""

MOST_BARS = 40
"""So many can be told apart, and their names read, in the width of a page."""


@dataclass(frozen=True, kw_only=True)
class BarsConfig:
    """Options of the bars."""

    by: str = ""
    """Setting whose values are the groups of bars, as 'loss' or 'method'; empty: the first that varies."""
    measure: Literal["top1", "top5"] = "top1"
    """Which accuracy."""
    dots: bool = False
    """Draw dots on an axis that does not begin at zero, which bars would make deceitful."""


@figures.register("bars", config=BarsConfig, label="Accuracy by setting")
def draw_bars(data: FigureData, options: BarsConfig) -> Figure:
    """Test accuracy by loss, method or another setting: bars from zero, or dots; every seed is a point."""
    fields = distinguishing_fields([run.plan for run in data.runs])
    known = known_fields(run.plan for run in data.runs)
    by = resolve_field(options.by, known) if options.by else (fields or ["method.name"])[0]
    every = divide(counted_groups(data, fields), fields, by)
    series = best_of(every, MOST_BARS)
    places = list(dict.fromkeys(item.panel for item in series))
    names = list(dict.fromkeys(item.name for item in series))
    room = len(places) * len(names)  # also for bars that are not there
    figure, ((axes,),) = new_figure(panel=(min(9.0, max(4.2, 0.42 * room + 1.0)), 2.8))
    points = 72 * _SHARE_OF_AXES * figure.get_figwidth() / (len(places) + 0.2) * 0.8 / len(names)
    labelled = len(series) <= MOST_LABELS and points >= _LABEL_POINTS
    style = dict(zip(names, looks(len(names)), strict=True))
    handles: dict[str, Any] = {}
    for item in series:
        at = places.index(item.panel) + _offset(item, series, names)
        handles.setdefault(
            item.name, _draw(axes, item, at, style[item.name], data, options, labelled, 0.8 / len(names))
        )
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    what_varies, ticks = words_in_common(places)
    axes.set_xticks(range(len(places)), ticks, **(slanted if _is_crowded(ticks, figure) else {}))
    axes.set_xlabel(what_varies)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_ylabel(f"test {_worded(options)} (%)")
    axes.margins(y=0.15)
    what = f"{replicate_words([item.group for item in series])}; points: seeds; {selection_words(data)}"
    left_out = len(every) - len(series)
    note = (
        f"the best {MOST_BARS} by test accuracy; {plural(left_out, 'configuration')} left out"
        if left_out
        else ""
    )
    add_title(figure, f"Test {_worded(options)} accuracy", subject_words(data), what, note)
    if len(names) > 1:
        add_legend(figure, list(handles.values()), list(handles))
    return figure


def _offset(item: Series, series: Sequence[Series], names: Sequence[str]) -> float:
    """Return where in its group a bar stands: those that are there are centred."""
    here = [name for name in names if any(s.name == name and s.panel == item.panel for s in series)]
    return (here.index(item.name) - (len(here) - 1) / 2) * 0.8 / len(names)


def _draw(
    axes: Axes,
    item: Series,
    at: float,
    look: Look,
    data: FigureData,
    options: BarsConfig,
    labelled: bool,
    width: float,
) -> Any:
    summary = summaries(item.group, data)[options.measure]
    error = error_of(summary)
    if options.dots:
        drawn: Any = axes.errorbar(
            [at], [summary.mean], yerr=[error], color=look.colour, marker=look.marker, linestyle="none"
        )
    else:
        drawn = axes.bar(
            [at],
            [summary.mean],
            width * 0.94,
            yerr=[error] if error else None,
            color=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0.5,
            error_kw={"elinewidth": 1.0},
        )
    values = measured(item.group, data)[options.measure]
    if len(values) > 1:
        shift = width * 0.25
        axes.plot([at + shift] * len(values), values, ".", color="black", markersize=2.5, alpha=0.7)
    if labelled:
        text = f"{summary.mean:.1f}\n±{error:.1f}" if error else f"{summary.mean:.1f}"
        top = max([summary.mean + error, *values])
        axes.annotate(
            text,
            (at, top),
            xytext=(0, 5 if options.dots else 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6.5,
        )
    return drawn


def _worded(options: BarsConfig) -> str:
    return options.measure.replace("top", "top-")


def _is_crowded(labels: Sequence[str], figure: Figure) -> bool:
    return sum(len(label) + 2 for label in labels) > figure.get_figwidth() * 72 / 5
