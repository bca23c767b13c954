from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.engine.device import shapes_only
from kdctl.layers.branches import Residual
from kdctl.protocols.backbone import models


@pytest.mark.parametrize(
    ("depth", "num_pairs", "widths"),
    [
        (3, 0, (128,)),
        (4, 1, (96,)),
        (5, 1, (96, 192)),
        (6, 2, (96, 192)),
        (10, 4, (48, 96, 192, 384)),
    ],
)
def test_convolutions_come_in_pairs_and_an_odd_one_stands_alone(
    depth: int, num_pairs: int, widths: tuple[int, ...]
) -> None:
    with shapes_only():
        backbone = models.get(f"resnet{depth}").item(10, 32)
    modules = list(backbone.modules())
    convs = [module for module in modules if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)]
    assert len(convs) + 1 == depth
    assert sum(isinstance(module, Residual) for module in modules) == num_pairs
    assert tuple(backbone.tap_shapes[tap][0] for tap in backbone.stage_taps) == widths


def test_each_student_costs_less_than_the_next_and_all_less_than_the_teacher() -> None:
    operations: list[int] = []
    for depth in (3, 4, 5, 6, 10):
        backbone = models.get(f"resnet{depth}").item(10, 32).eval()
        operations.append(multiply_accumulates(backbone))
    assert operations == sorted(operations)
    assert [round(count / 1e6, 1) for count in operations] == [5.9, 8.6, 11.2, 16.8, 35.7]


def multiply_accumulates(backbone: nn.Module) -> int:
    """Return the operations of convolutions and linear layers for one image of 32x32 pixels."""
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        total += output[0, 0].numel() * layer.weight.numel()

    for layer in backbone.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    backbone(torch.zeros(1, 3, 32, 32))
    return total
