"""Accuracy on each class."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le
from matplotlib.figure import Figure

from kdctl.report.evaluated import evaluated_groups
from kdctl.report.figure import FigureData, figures
from kdctl.report.plotting import add_legend, add_title, looks, new_figure
from kdctl.report.series import selection_words, subject_words
from kdctl.report.wording import counts_words
from kdctl.text import plural

_MOST_NAMES = 40
"""So many classes have their names below the axis."""


@dataclass(frozen=True, kw_only=True)
class PerClassConfig:
    """Options of the figure."""

    split: Literal["test", "val"] = "test"
    """On which `kdctl eval` looked at the models."""
    most: Annotated[int, Ge(1), Le(20)] = 4
    """At most so many configurations, the best."""


@figures.register("per_class", config=PerClassConfig, label="Accuracy on each class")
def draw_per_class(data: FigureData, options: PerClassConfig) -> Figure:
    """Accuracy on each class, mean over seeds with error bars; the best configuration orders the classes."""
    chosen = evaluated_groups(data, options.split, options.most)
    columns = [
        {
            name: [v for e in item.evaluations if (v := e.per_class_top1.get(name)) is not None]
            for name in item.classes
        }
        for item in chosen
    ]
    classes = sorted(
        (name for name in columns[0] if columns[0][name]),
        key=lambda name: -statistics.fmean(columns[0][name]),
    )
    is_named = len(classes) <= _MOST_NAMES
    figure, ((axes,),) = new_figure(panel=(min(9.0, max(4.4, 0.3 * len(classes) + 1.0)), 2.9))
    handles = []
    for place, (values, look) in enumerate(zip(columns, looks(len(chosen)), strict=True)):
        shift = (place - (len(chosen) - 1) / 2) * 0.16
        there = [(at + shift, values[name]) for at, name in enumerate(classes) if values.get(name)]
        handles.append(
            axes.errorbar(
                [at for at, _ in there],
                [statistics.fmean(each) for _, each in there],
                yerr=[statistics.stdev(each) if len(each) > 1 else 0.0 for _, each in there],
                color=look.colour,
                marker=look.marker,
                markersize=4 if is_named else 2.5,
                capsize=2 if is_named else 0,
                linestyle="none",
            )
        )
    if is_named:
        axes.set_xticks(
            range(len(classes)), [name.replace("_", " ") for name in classes], rotation=40, ha="right"
        )
    else:
        axes.set_xticks([])
    first = " of the first configuration" if len(chosen) > 1 else ""
    axes.set_xlabel(f"{plural(len(classes), 'class', 'classes')}, sorted by the accuracy{first}")
    axes.set_ylim(0, 103)
    axes.set_ylabel(f"{options.split} top-1 (%)")
    n = counts_words(len(item.evaluations) for item in chosen)
    shown = [run for item in chosen for run in item.group.runs]
    about = subject_words(data, shown, but=("method.name",) if len(chosen) > 1 else ())
    seeds = f"mean ± sample std over evaluated seeds, {n}; {selection_words(data)}"
    add_title(figure, "Accuracy on each class", about, seeds)
    add_legend(figure, handles, [item.name or "all runs" for item in chosen])
    return figure
