from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.device import shapes_only
from kdctl.protocols.backbone import Backbone, models


@pytest.mark.parametrize(
    ("name", "widths"), [("shufflenetv2", (116, 232, 464)), ("shufflenetv2x1_5", (176, 352, 704))]
)
def test_methods_read_the_stages_and_not_the_head(name: str, widths: tuple[int, ...]) -> None:
    with shapes_only():
        backbone = models.get(name).item(100, 32)
    shapes = [backbone.tap_shapes[tap] for tap in backbone.stage_taps]
    assert shapes == [(width, size, size) for width, size in zip(widths, (16, 8, 4), strict=True)]
    assert backbone.tap_shapes["stem"] == (24, 32, 32)
    assert list(backbone.pieces_after(backbone.final_tap)) == ["head", "pooled", "classifier"]
    assert backbone.tap_shapes["pooled"] == (1024,)


def interleaved(first: Tensor, second: Tensor) -> Tensor:
    """Take the channels of two maps in turn."""
    return torch.stack((first, second), dim=2).flatten(1, 2)


def plain_forward(backbone: Backbone, images: Tensor) -> Tensor:
    """Restate the network with each ReLU where the paper has it: inside the branch, before the shuffle."""
    convs = iter([module for module in backbone.modules() if isinstance(module, nn.Conv2d)])
    norms = iter([module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)])

    def conv_bn(x: Tensor) -> Tensor:
        return next(norms)(next(convs)(x))

    def bottleneck(x: Tensor) -> Tensor:
        return conv_bn(conv_bn(conv_bn(x).relu())).relu()

    x = conv_bn(images).relu()
    for num_units in (4, 8, 4):
        x = interleaved(conv_bn(conv_bn(x)).relu(), bottleneck(x))
        for _ in range(num_units - 1):
            untouched, other = x.chunk(2, dim=1)
            x = interleaved(untouched, bottleneck(other))
    return backbone.classifier(conv_bn(x).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("training", [False, True])
def test_chain_equals_the_plain_network(drawn: Callable[[str], Backbone], training: bool) -> None:
    backbone = drawn("shufflenetv2").train(training).double()  # norms over four pixels magnify rounding
    images = torch.randn(4, 3, 16, 16).double()
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), plain_forward(backbone, images))


def test_the_map_before_the_activation_has_its_channels_in_the_same_order(
    drawn: Callable[[str], Backbone],
) -> None:
    backbone = drawn("shufflenetv2").eval()
    taps = backbone.observe(torch.randn(2, 3, 16, 16), ["stage3_pre", "stage3"]).taps
    assert torch.equal(taps["stage3_pre"].relu(), taps["stage3"])
    assert taps["stage3_pre"][:, ::2].min() >= 0, "half of the channels passed untouched, already rectified"
