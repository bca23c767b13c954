"""Accuracy over epochs."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from kdctl.report.curves import Quantity, draw_curves
from kdctl.report.figure import FigureData, figures


@dataclass(frozen=True, kw_only=True)
class AccuracyCurvesConfig:
    """Options of the accuracy curves."""

    top5: bool = False
    """Also the top-5 accuracy on the test split."""
    single_seeds: bool = False
    """Draw every run as a thin line, instead of a band over seeds."""


@figures.register("accuracy_curves", config=AccuracyCurvesConfig, label="Accuracy over epochs")
def draw_accuracy_curves(data: FigureData, options: AccuracyCurvesConfig) -> Figure:
    """Test, validation and training accuracy over epochs, with a band over seeds."""
    quantities = [
        Quantity(label="test top-1 (%)", read=lambda epoch: epoch.test.top1),
        *([Quantity(label="test top-5 (%)", read=lambda epoch: epoch.test.top5)] if options.top5 else []),
        Quantity(label="validation top-1 (%)", read=lambda epoch: epoch.val.top1 if epoch.val else None),
        Quantity(label="training top-1 (%)", read=lambda epoch: epoch.train_top1),
    ]
    return draw_curves(data, quantities, title="Accuracy over epochs", single_seeds=options.single_seeds)
