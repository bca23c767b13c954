from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kdctl.layers.conv import depthwise3x3
from kdctl.layers.initialise import draw_classifier, draw_convolutions


def test_convolutions_have_the_variance_two_over_fan_out() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(50, 100, 3)
    draw_convolutions(nn.Sequential(conv))
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 100)), rel=0.02)
    assert conv.bias is not None
    assert conv.bias.abs().max() == 0


def test_fan_out_counts_all_channels_of_a_depthwise_convolution() -> None:
    torch.manual_seed(0)
    conv = depthwise3x3(2000)
    draw_convolutions(conv)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 2000)), rel=0.02)


def test_a_classifier_starts_close_to_no_opinion() -> None:
    torch.manual_seed(0)
    classifier = nn.Linear(200, 100)
    draw_classifier(classifier)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert classifier.bias.abs().max() == 0
