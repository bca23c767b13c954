from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.engine.device import shapes_only
from kdctl.models.resnet import PaddedShortcut
from kdctl.protocols.backbone import models


def test_the_shortcut_thins_out_pixels_and_puts_zeros_on_both_sides() -> None:
    features = torch.arange(2 * 5 * 5.0).reshape(1, 2, 5, 5)
    widened = PaddedShortcut(2, 2)(features)
    assert widened.shape == (1, 4, 3, 3)
    assert torch.equal(widened[:, 1:3], features[:, :, ::2, ::2])
    assert widened[:, [0, 3]].abs().max() == 0


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_depth_counts_the_convolutions_and_the_classifier(depth: int) -> None:
    with shapes_only():
        modules = list(models.get(f"resnet{depth}_a").item(10, 32).modules())
    convs = [module for module in modules if isinstance(module, nn.Conv2d)]
    assert len(convs) + 1 == depth
    assert all(conv.kernel_size == (3, 3) for conv in convs)


def test_without_weights_in_its_branches_only_the_shortcuts_carry_on() -> None:
    torch.manual_seed(0)
    backbone = models.get("resnet20_a").item(10, 16).eval()
    for name in ("stage1_pre", "stage2_pre", "stage3_pre"):
        for module in backbone.links[name].modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
    taps = backbone.observe(torch.randn(2, 3, 16, 16), ["stem", "stage3"]).taps
    before, after = (
        8 + 16,
        64 - 8 - 16,
    )  # 16 channels of zeros to 32 channels, then 32 to 64, half on each side
    assert torch.equal(taps["stage3"][:, before:after], taps["stem"][:, :, ::4, ::4])
    assert taps["stage3"][:, :before].abs().max() == 0
    assert taps["stage3"][:, after:].abs().max() == 0
