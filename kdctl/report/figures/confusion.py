"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from kdctl.report.evaluated import Evaluated, evaluated_groups
from kdctl.report.figure import FigureData, figures
from kdctl.report.plotting import add_title, new_figure
from kdctl.report.series import selection_words, subject_words

_MOST_NUMBERS = 15
"""With so many classes, numbers stand in the squares."""
_MOST_NAMES = 40
"""With so many classes, names stand beside the axes."""


@dataclass(frozen=True, kw_only=True)
class ConfusionConfig:
    """Options of the figure."""

    split: Literal["test", "val"] = "test"
    """On which `kdctl eval` looked at the models."""


@figures.register("confusion", config=ConfusionConfig, label="Confusion matrix")
def draw_confusion(data: FigureData, options: ConfusionConfig) -> Figure:
    """Confusion matrix of the best evaluated configuration, in percent of each class, mean over seeds."""
    (item,) = evaluated_groups(data, options.split, 1, confusion=True)
    share = np.mean([_share(item, place) for place in range(len(item.evaluations))], axis=0)
    count = len(share)
    side = min(7.5, max(3.4, 0.34 * count + 1.4))
    figure, ((axes,),) = new_figure(panel=(side + 0.6, side))
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, label="% of the class (square-root scale)")
    bar.set_ticks([0, 1, 5, 10, 25, 50, 100])
    if count <= _MOST_NAMES:
        names = [name.replace("_", " ") for name in item.classes]
        axes.set_xticks(range(count), names, rotation=45, ha="right")
        axes.set_yticks(range(count), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class")
    if count <= _MOST_NUMBERS:
        _write_numbers(axes, share)
    which = f"the most accurate of those evaluated: {item.name}" if item.name else ""
    about = f"{options.split} split, {selection_words(data)}"
    seeds = f"mean over evaluated seeds, n = {len(item.evaluations)}"
    add_title(figure, "Confusion matrix", subject_words(data, item.group.runs), which, f"{about}; {seeds}")
    return figure


def _share(item: Evaluated, place: int) -> npt.NDArray[np.float64]:
    """Return where the samples of each class went, in percent: [class, predicted class]."""
    counts = np.zeros((len(item.classes), len(item.classes)))
    for label, predicted, count in item.evaluations[place].confusion:
        counts[label, predicted] = count
    return 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)


def _write_numbers(axes: Any, share: npt.NDArray[np.float64]) -> None:
    for (row, column), value in np.ndenumerate(share):
        if (number := f"{value:.0f}") != "0":
            colour = "white" if value > 35 else "black"
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=7)
