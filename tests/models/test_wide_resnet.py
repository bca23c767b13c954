from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.device import shapes_only
from kdctl.layers.branches import Residual
from kdctl.protocols.backbone import Backbone, models


def plain_forward(backbone: Backbone, images: Tensor, *, num_blocks: int) -> Tensor:
    """Restate the paper's network block by block; each block begins with its own BN and ReLU."""
    convs = iter([module for module in backbone.modules() if isinstance(module, nn.Conv2d)])
    norms = iter([module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)])
    x = next(convs)(images)
    for _ in range(3 * num_blocks):
        activated = next(norms)(x).relu()
        first = next(convs)
        y = next(convs)(next(norms)(first(activated)).relu())
        # A block that widens has a shortcut convolution, which reads the activated input as well.
        x = y + (next(convs)(activated) if first.in_channels != first.out_channels else x)
    assert next(convs, None) is None
    return backbone.classifier(next(norms)(x).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize(("name", "num_blocks"), [("wrn_40_2", 6), ("wrn_40_1", 6), ("wrn_16_4", 2)])
@pytest.mark.parametrize("training", [False, True])
def test_chain_equals_the_plain_preactivation_network(
    drawn: Callable[[str], Backbone], name: str, num_blocks: int, training: bool
) -> None:
    backbone = drawn(name).train(training)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), plain_forward(backbone, images, num_blocks=num_blocks))


def test_the_last_stage_is_what_the_classifier_pools(drawn: Callable[[str], Backbone]) -> None:
    backbone = drawn("WRN-40-2").eval()
    outputs = backbone.observe(torch.randn(2, 3, 16, 16), [backbone.final_tap])
    assert outputs.logits is not None
    pooled = outputs.taps[backbone.final_tap].mean(dim=(2, 3))
    assert torch.equal(outputs.logits, backbone.classifier(pooled))


def test_a_stage_is_its_raw_sum_normalised_then_rectified(drawn: Callable[[str], Backbone]) -> None:
    backbone = drawn("wrn_16_2").eval()
    taps = backbone.observe(torch.randn(2, 3, 16, 16), ["stage2_raw", "stage2_pre", "stage2"]).taps
    next_norm = backbone.links["stage2_pre"]
    assert isinstance(next_norm, nn.BatchNorm2d)
    assert torch.equal(taps["stage2_pre"], next_norm(taps["stage2_raw"]))
    assert torch.equal(taps["stage2"], taps["stage2_pre"].relu())


def test_shortcuts_are_bare_convolutions_and_only_where_the_width_changes() -> None:
    def pointwise(name: str) -> list[nn.Conv2d]:
        with shapes_only():
            modules = list(models.get(name).item(10, 16).modules())
        return [
            module for module in modules if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        ]

    assert [conv.out_channels for conv in pointwise("wrn_40_2")] == [32, 64, 128]
    assert [conv.out_channels for conv in pointwise("wrn_40_1")] == [32, 64]
    assert all(conv.bias is None for conv in pointwise("wrn_40_2"))


def test_depth_40_has_six_blocks_a_stage() -> None:
    with shapes_only():
        modules = list(models.get("wrn_40_2").item(10, 16).modules())
    assert sum(isinstance(module, Residual) for module in modules) == 3 * 6
