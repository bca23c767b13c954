from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.models.option_a_resnet import PaddedShortcut
from kdctl.protocols.backbone import models


def test_the_shortcut_thins_out_pixels_and_appends_zeros() -> None:
    features = torch.arange(2 * 5 * 5.0).reshape(1, 2, 5, 5)
    widened = PaddedShortcut(2, 2)(features)
    assert widened.shape == (1, 4, 3, 3)
    assert torch.equal(widened[:, :2], features[:, :, ::2, ::2])
    assert widened[:, 2:].abs().max() == 0


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_depth_counts_the_convolutions_and_the_classifier(depth: int) -> None:
    with torch.device("meta"):
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
    assert torch.equal(taps["stage3"][:, :16], taps["stem"][:, :, ::4, ::4])
    assert taps["stage3"][:, 16:].abs().max() == 0
