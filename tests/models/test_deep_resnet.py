from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.device import shapes_only
from kdctl.layers.branches import Residual
from kdctl.protocols.backbone import Backbone, models


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet34", (64, 128, 256, 512)),
        ("resnet50", (256, 512, 1024, 2048)),
    ],
)
def test_the_stem_keeps_small_images_as_they_are(name: str, widths: tuple[int, ...]) -> None:
    with shapes_only():
        backbone = models.get(name).item(100, 32)
    assert backbone.tap_shapes["stem"] == (64, 32, 32)
    shapes = [backbone.tap_shapes[tap] for tap in backbone.stage_taps]
    assert shapes == [(width, size, size) for width, size in zip(widths, (32, 16, 8, 4), strict=True)]


def plain_forward(backbone: Backbone, images: Tensor, *, num_convs: int) -> Tensor:
    """Restate the network: blocks of `num_convs` convolutions, the last without ReLU, plus the shortcut."""
    convs = iter([module for module in backbone.modules() if isinstance(module, nn.Conv2d)])
    norms = iter([module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)])
    x = next(norms)(next(convs)(images)).relu()
    for _ in range(sum(isinstance(module, Residual) for module in backbone.modules())):
        y = x
        for _ in range(num_convs - 1):
            y = next(norms)(next(convs)(y)).relu()
        y = next(norms)(next(convs)(y))
        x = (y + (x if x.shape == y.shape else next(norms)(next(convs)(x)))).relu()
    assert next(convs, None) is None
    return backbone.classifier(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(("name", "num_convs"), [("resnet18", 2), ("resnet50", 3)])
def test_forward_is_that_of_plain_blocks(drawn: Callable[[str], Backbone], name: str, num_convs: int) -> None:
    backbone = drawn(name).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), plain_forward(backbone, images, num_convs=num_convs))


def test_the_3x3_convolution_of_a_bottleneck_carries_the_stride() -> None:
    with shapes_only():
        modules = list(models.get("resnet50").item(10, 16).links["stage2_pre"].modules())
    first = next(module for module in modules if isinstance(module, Residual))
    strides = [module.stride[0] for module in first.branch.modules() if isinstance(module, nn.Conv2d)]
    assert strides == [1, 2, 1]
