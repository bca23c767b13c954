from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.device import shapes_only
from kdctl.protocols.backbone import Backbone, models


def plain_forward(backbone: Backbone, images: Tensor, *, num_blocks: int) -> Tensor:
    """Restate the network: relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), three times num_blocks times."""
    convs = iter([module for module in backbone.modules() if isinstance(module, nn.Conv2d)])
    norms = iter([module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)])
    x = next(norms)(next(convs)(images)).relu()
    for stage in range(3):
        for block in range(num_blocks):
            y = next(norms)(next(convs)(x)).relu()
            y = next(norms)(next(convs)(y))
            changes = block == 0 and y.shape[1:] != x.shape[1:]
            assert changes or stage == 0 or block > 0
            x = (y + (next(norms)(next(convs)(x)) if changes else x)).relu()
    assert next(convs, None) is None
    return backbone.classifier(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "num_blocks"), [("resnet20", 3), ("resnet8x4", 1), ("wrn_16_2_post", 2), ("wrn_40_1_post", 6)]
)
def test_forward_is_that_of_plain_basic_blocks(
    drawn: Callable[[str], Backbone], name: str, num_blocks: int
) -> None:
    backbone = drawn(name).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), plain_forward(backbone, images, num_blocks=num_blocks))


@pytest.mark.parametrize(
    ("name", "stem", "widths"),
    [
        ("resnet110", 16, (16, 32, 64)),
        ("resnet110x2", 16, (32, 64, 128)),
        ("resnet32x4", 32, (64, 128, 256)),
        ("wrn_40_2_post", 16, (32, 64, 128)),
        ("wrn_40_4_post", 32, (64, 128, 256)),
    ],
)
def test_maps_shrink_twice_while_they_widen(name: str, stem: int, widths: tuple[int, ...]) -> None:
    with shapes_only():
        backbone = models.get(name).item(100, 32)
    assert backbone.tap_shapes["stem"] == (stem, 32, 32)
    shapes = [backbone.tap_shapes[tap] for tap in backbone.stage_taps]
    assert shapes == [(width, size, size) for width, size in zip(widths, (32, 16, 8), strict=True)]


def test_stages_of_resnet32x4_have_the_published_sizes() -> None:
    with shapes_only():
        links = models.get("resnet32x4").item(100, 32).links
    sizes = [sum(p.numel() for p in links[f"stage{number}_pre"].parameters()) for number in (1, 2, 3)]
    assert sizes == [353_664, 1_411_840, 5_641_728]


def test_a_stage_is_its_preactivation_rectified() -> None:
    backbone = models.get("resnet8").item(10, 16).eval()
    taps = backbone.observe(torch.randn(2, 3, 16, 16), ["stage2_pre", "stage2"]).taps
    assert torch.equal(taps["stage2"], taps["stage2_pre"].relu())
