"""How much a projector's outputs still say of its inputs, over training."""

from __future__ import annotations

import dataclasses

from matplotlib.figure import Figure

from kdctl.records import EpochResult
from kdctl.registry import NoOptions
from kdctl.report.curves import Quantity, draw_curves
from kdctl.report.figure import FigureData, NothingToDrawError, figures

_NAME = "input_output_correlation"
"""What a run tells of its projector."""


@figures.register("projector_correlation", label="Input-output correlation of the projector")
def draw_projector_correlation(data: FigureData, options: NoOptions) -> Figure:
    """Correlation of a projector's inputs with its outputs over epochs, with a band over seeds.

    After Figure 3 of Miles and Mikolajczyk, AAAI 2024, arXiv:2303.11098: Pearson's over a batch, the mean of
    the absolute values over all pairs of features. For runs with method.watch_projector.
    """
    del options
    told = [run for run in data.runs if any(_told(epoch) is not None for epoch in data.epochs(run.key))]
    if not told:
        raise NothingToDrawError(
            "no run has told how its projector's inputs and outputs correlate.",
            "train with --method projector -o method.watch_projector=true.",
        )
    quantity = Quantity(label="mean |correlation|\nof inputs and outputs", read=_told)
    title = "Correlation of the projector's inputs with its outputs"
    return draw_curves(
        dataclasses.replace(data, runs=tuple(told)), [quantity], title=title, single_seeds=False
    )


def _told(epoch: EpochResult) -> float | None:
    return epoch.metrics.get(_NAME)
