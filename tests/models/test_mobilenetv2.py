from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kdctl.engine.device import shapes_only
from kdctl.errors import KdctlError
from kdctl.layers.branches import Residual
from kdctl.protocols.backbone import Backbone, models


def on_meta(name: str) -> Backbone:
    with shapes_only():
        return models.get(name).item(100, 32)


@pytest.mark.parametrize(
    ("name", "stem", "widths"),
    [("mobilenetv2", 16, (12, 16, 48, 160)), ("mobilenetv2x2", 32, (24, 32, 96, 320))],
)
def test_stages_group_what_has_one_size(name: str, stem: int, widths: tuple[int, ...]) -> None:
    shapes = on_meta(name).tap_shapes
    assert shapes["stem"] == (stem, 16, 16)
    for number, (width, size) in enumerate(zip(widths, (16, 8, 4, 2), strict=True), start=1):
        assert shapes[f"stage{number}"] == (width, size, size)
    assert shapes["head"] == (1280, 2, 2)
    assert shapes["pooled"] == (1280,)


def test_methods_read_the_last_bottleneck_and_not_the_head() -> None:
    backbone = on_meta("mobilenetv2")
    assert backbone.final_tap == "stage4"
    assert list(backbone.pieces_after("stage4")) == ["head", "pooled", "classifier"]


def test_blocks_are_those_of_the_paper() -> None:
    backbone = on_meta("mobilenetv2x2")
    depthwise = [
        module for module in backbone.modules() if isinstance(module, nn.Conv2d) and module.groups > 1
    ]
    # Table 2 of the paper, but the blocks of 24 channels keep the size.
    assert [conv.stride[0] for conv in depthwise] == [1, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    expanded = [32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160]
    assert [conv.out_channels for conv in depthwise] == [expanded[0], *(6 * width for width in expanded[1:])]
    residuals = [module for module in backbone.modules() if isinstance(module, Residual)]
    assert len(residuals) == 1 + 2 + 3 + 2 + 2


def test_bottlenecks_end_linearly() -> None:
    torch.manual_seed(0)
    backbone = models.get("mobilenetv2").item(10, 32).eval()
    taps = backbone.observe(torch.randn(2, 3, 32, 32), backbone.stage_taps).taps
    assert all(features.min() < 0 for features in taps.values())


def test_images_that_the_strides_leave_nothing_of_are_refused() -> None:
    assert models.get("mobilenetv2").item(10, 16).tap_shapes["stage4"] == (160, 1, 1)
    with pytest.raises(KdctlError, match="images of 8x8 pixels are too small for MobileNetV2"):
        models.get("mobilenetv2").item(10, 8)


def test_weights_are_drawn_as_documented() -> None:
    torch.manual_seed(0)
    backbone = models.get("mobilenetv2x2").item(100, 32)
    head = next(module for module in backbone.links["head"].modules() if isinstance(module, nn.Conv2d))
    assert head.weight.std().item() == pytest.approx(math.sqrt(2 / 1280), rel=0.01)
    assert backbone.classifier.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert backbone.classifier.bias.abs().max() == 0
