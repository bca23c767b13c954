from __future__ import annotations

import pytest
from torch import nn

from kdctl.projectors.depthwise_bottleneck import DepthwiseBottleneckConfig, DepthwiseBottleneckProjector
from kdctl.protocols.projector import projectors


def test_its_parameters_are_those_of_the_papers_table_5() -> None:
    projector = DepthwiseBottleneckProjector(DepthwiseBottleneckConfig(), (256, 8, 8), (256, 8, 8))
    assert sum(parameter.numel() for parameter in projector.parameters()) == 67_712
    assert projectors.get("1x1-DW3x3-1x1").item is DepthwiseBottleneckProjector


@pytest.mark.parametrize("reduction", [1, 2, 3, 64])
def test_its_parameters_follow_the_formula(reduction: int) -> None:
    config = DepthwiseBottleneckConfig(reduction=reduction)
    projector = DepthwiseBottleneckProjector(config, (7, 4, 4), (20, 4, 4))
    inner = max(20 // reduction, 1)
    expected = 7 * inner + 9 * inner + inner * 20 + 4 * inner + 2 * 20
    assert sum(parameter.numel() for parameter in projector.parameters()) == expected


def test_the_convolution_inside_keeps_channels_apart() -> None:
    projector = DepthwiseBottleneckProjector(DepthwiseBottleneckConfig(), (8, 4, 4), (12, 4, 4))
    inside = [layer for layer in projector.modules() if isinstance(layer, nn.Conv2d)][1]
    assert (inside.groups, inside.in_channels, inside.kernel_size) == (6, 6, (3, 3))
