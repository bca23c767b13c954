from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.engine.device import shapes_only
from kdctl.protocols.backbone import Backbone, models


@pytest.mark.parametrize("name", ["vgg8", "vgg11", "vgg13"])
@pytest.mark.parametrize(("input_size", "sizes"), [(32, (16, 8, 4, 4)), (64, (32, 16, 8, 4))])
def test_only_large_images_are_halved_before_the_last_stage(
    name: str, input_size: int, sizes: tuple[int, ...]
) -> None:
    with shapes_only():
        backbone = models.get(name).item(100, input_size)
    assert backbone.tap_shapes["stem"] == (64, input_size, input_size)
    shapes = [backbone.tap_shapes[tap] for tap in backbone.stage_taps]
    assert shapes == [(width, size, size) for width, size in zip((128, 256, 512, 512), sizes, strict=True)]


def plain_forward(backbone: Backbone, images: Tensor, depths: tuple[int, ...]) -> Tensor:
    convs = iter([module for module in backbone.modules() if isinstance(module, nn.Conv2d)])
    norms = iter([module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)])
    x = images
    for group, depth in enumerate(depths):
        if 1 <= group <= 3:
            x = functional.max_pool2d(x, 2)
        for _ in range(depth):
            x = next(norms)(next(convs)(x)).relu()
    return backbone.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize(("name", "depths"), [("vgg8", (1, 1, 1, 1, 1)), ("vgg11", (1, 1, 2, 2, 2))])
def test_forward_is_that_of_plain_convolutions(
    drawn: Callable[[str], Backbone], name: str, depths: tuple[int, ...]
) -> None:
    backbone = drawn(name).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), plain_forward(backbone, images, depths))


def test_convolutions_have_biases_that_start_at_zero() -> None:
    convs = [module for module in models.get("vgg8").item(10, 16).modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 5
    for conv in convs:
        assert conv.bias is not None
        assert conv.bias.abs().max() == 0
