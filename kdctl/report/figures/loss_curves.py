"""Losses over epochs."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from kdctl.report.curves import Quantity, draw_curves
from kdctl.report.figure import FigureData, figures


@dataclass(frozen=True, kw_only=True)
class LossCurvesConfig:
    """Options of the loss curves."""

    log: bool | None = None
    """Logarithmic loss axes; None: where the losses of one panel would lie flat beside those of another."""
    single_seeds: bool = False
    """Draw every run as a thin line, instead of a band over seeds."""


@figures.register("loss_curves", config=LossCurvesConfig, label="Loss over epochs")
def draw_loss_curves(data: FigureData, options: LossCurvesConfig) -> Figure:
    """Cross-entropy on test and validation split, and the training loss, over epochs, with a band over seeds.

    The training loss is the weighted sum of each method's own terms: its size means nothing across methods.
    """
    quantities = [
        Quantity(label="test loss (nats)", read=lambda epoch: epoch.test.loss),
        Quantity(label="validation loss (nats)", read=lambda epoch: epoch.val.loss if epoch.val else None),
        Quantity(label="training loss\n(sum of the method's terms)", read=lambda epoch: epoch.train_loss),
    ]
    return draw_curves(
        data, quantities, title="Loss over epochs", single_seeds=options.single_seeds, log=options.log
    )
