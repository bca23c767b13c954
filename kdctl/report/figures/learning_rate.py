"""Accuracy against the learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from kdctl.report.against import draw_against
from kdctl.report.figure import FigureData, figures

FIELD = "optimizer.learning_rate"


@dataclass(frozen=True, kw_only=True)
class LearningRateConfig:
    """Options of the figure."""

    top5: bool = True
    """Beside the top-1 accuracy."""


@figures.register("learning_rate", config=LearningRateConfig, label="Accuracy against the learning rate")
def draw_learning_rate(data: FigureData, options: LearningRateConfig) -> Figure:
    """Top-1 and top-5 test accuracy against the learning rate, with error bars, for each loss or method."""
    return draw_against(
        data, FIELD, title="Test accuracy against the learning rate", top5=options.top5, log=True
    )
