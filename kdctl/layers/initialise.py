"""First values of weights; torch's global generator draws them, so the caller seeds it."""

from __future__ import annotations

from torch import nn


def draw_convolutions(module: nn.Module) -> None:
    """Draw the convolutions from N(0, 2 / fan-out), biases 0 (He et al., arXiv:1502.01852).

    Fan-out is kernel area times all output channels, also where a convolution has groups.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def draw_classifier(classifier: nn.Linear) -> None:
    """Draw a classifier from N(0, 0.01^2), bias 0, so that the first predictions are nearly uniform."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
