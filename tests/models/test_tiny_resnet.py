from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.layers.branches import Residual
from kdctl.protocols.backbone import models


@pytest.mark.parametrize(
    ("depth", "num_pairs", "widths"),
    [
        (3, 0, (16,)),
        (4, 1, (16,)),
        (5, 1, (16, 32)),
        (6, 2, (16, 32)),
        (10, 4, (16, 32, 64, 128)),
    ],
)
def test_convolutions_come_in_pairs_and_an_odd_one_stands_alone(
    depth: int, num_pairs: int, widths: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        backbone = models.get(f"resnet{depth}").item(10, 32)
    modules = list(backbone.modules())
    convs = [module for module in modules if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]
    assert len(convs) + 1 == depth
    assert sum(isinstance(module, Residual) for module in modules) == num_pairs
    assert tuple(backbone.tap_shapes[tap][0] for tap in backbone.stage_taps) == widths
