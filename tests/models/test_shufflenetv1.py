from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from kdctl.engine.device import shapes_only
from kdctl.layers.branches import Concatenation, Residual
from kdctl.protocols.backbone import Backbone, models


def test_maps_are_those_of_the_literature() -> None:
    with shapes_only():
        shapes = models.get("shufflenetv1").item(100, 32).tap_shapes
    expected = {"stem": (24, 32, 32), "stage1": (240, 16, 16), "stage2": (480, 8, 8), "stage3": (960, 4, 4)}
    assert {tap: shapes[tap] for tap in expected} == expected


def test_units_are_4_8_4_and_the_first_of_each_stage_halves() -> None:
    with shapes_only():
        backbone = models.get("shufflenetv1").item(100, 32)
    for number, num_units in ((1, 4), (2, 8), (3, 4)):
        modules = list(backbone.links[f"stage{number}_pre"].modules())
        assert sum(isinstance(module, Concatenation) for module in modules) == 1
        assert sum(isinstance(module, Residual) for module in modules) == num_units - 1


def test_only_the_first_pointwise_convolution_after_the_stem_is_not_grouped() -> None:
    with shapes_only():
        modules = list(models.get("shufflenetv1").item(100, 32).modules())
    pointwise = [m for m in modules if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [conv.groups for conv in pointwise] == [1, 1, *[3] * (2 * 16 - 1)]


def test_a_unit_is_grouped_pointwise_shuffle_depthwise_grouped_pointwise(
    drawn: Callable[[str], Backbone],
) -> None:
    backbone = drawn("shufflenetv1").eval()
    unit = next(m for m in backbone.links["stage1_pre"].modules() if isinstance(m, Residual))
    squeeze, depthwise, expand = (m for m in unit.modules() if isinstance(m, nn.Conv2d))
    norms = [m for m in unit.modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.randn(2, 240, 8, 8)
    with torch.inference_mode():
        y = norms[0](squeeze(x)).relu()
        y = y[:, [group * 20 + place for place in range(20) for group in range(3)]]
        y = norms[1](depthwise(y)).relu()
        torch.testing.assert_close(unit(x), x + norms[2](expand(y)))


def test_a_halving_unit_carries_its_pooled_input_along(drawn: Callable[[str], Backbone]) -> None:
    unit = next(
        m for m in drawn("shufflenetv1").links["stage2_pre"].modules() if isinstance(m, Concatenation)
    )
    x = torch.randn(2, 240, 8, 8)
    output = unit.eval()(x)
    assert output.shape == (2, 480, 4, 4)
    torch.testing.assert_close(output[:, 240:], functional.avg_pool2d(x, 3, stride=2, padding=1))
