from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.layers.branches import Residual
from kdctl.protocols.backbone import models


@pytest.mark.parametrize(
    ("depth", "num_pairs", "widths"),
    [
        (3, 0, (64,)),
        (4, 1, (64,)),
        (5, 1, (64, 128)),
        (6, 2, (64, 128)),
        (10, 4, (32, 64, 128, 256)),
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


@pytest.mark.parametrize(("depth", "field_of_view"), [(3, 5), (4, 7), (5, 9), (6, 13)])
def test_a_pixel_of_the_last_map_sees_as_many_pixels_as_the_docstring_says(
    depth: int, field_of_view: int
) -> None:
    torch.manual_seed(0)
    backbone = models.get(f"resnet{depth}").item(10, 32).eval()
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    last_map = backbone.observe(images, [backbone.final_tap]).taps[backbone.final_tap]
    middle = last_map.shape[2] // 2
    last_map[0, :, middle, middle].sum().backward()
    assert images.grad is not None
    seen = images.grad.abs().sum(dim=(0, 1)).nonzero()
    extent = seen.max(dim=0).values - seen.min(dim=0).values + 1
    assert extent.tolist() == [field_of_view, field_of_view]
