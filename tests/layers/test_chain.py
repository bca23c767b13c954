from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.errors import KdctlError
from kdctl.layers.chain import Chain
from kdctl.layers.conv import conv3x3


def test_sizes_are_divided_and_rounded_up() -> None:
    chain = Chain("a test model", 33)
    chain.add("stem", conv3x3(3, 4, stride=2), channels=4, stride=2)
    chain.add("same", nn.Identity())
    chain.add_rectified_stage([conv3x3(4, 8, stride=2)], channels=8, stride=2)
    backbone = chain.close(10)
    assert backbone.tap_shapes == {
        "stem": (4, 17, 17),
        "same": (4, 17, 17),
        "stage1_pre": (8, 9, 9),
        "stage1": (8, 9, 9),
        "pooled": (8,),
    }


def test_a_stage_without_activation_has_no_tap_before_it() -> None:
    chain = Chain("a test model", 8)
    chain.add_stage(nn.Identity(), None, channels=3)
    chain.add_stage(nn.Identity(), nn.ReLU(), channels=3)
    backbone = chain.close(2)
    assert list(backbone.tap_shapes) == ["stage1", "stage2_pre", "stage2", "pooled"]
    assert backbone.stage_taps == ("stage1", "stage2")


def test_each_block_of_a_rectified_stage_is_followed_by_a_relu() -> None:
    chain = Chain("a test model", 1)
    chain.add_rectified_stage([nn.Identity(), nn.Identity()], channels=3)
    body, activation, _ = chain.close(2).links.values()
    below_zero = torch.full((1, 3, 1, 1), -1.0)
    assert body(below_zero.clone()).max() == 0
    assert activation(below_zero).max() == 0
    assert below_zero.max() == -1, "the map before the activation is a tap: it must not be overwritten"


def test_too_small_images_are_refused_with_the_sizes_named() -> None:
    chain = Chain("a test model", 2)
    chain.add("stem", nn.AvgPool2d(2), stride=2)
    with pytest.raises(KdctlError, match="images of 2x2 pixels are too small for a test model") as error:
        chain.add_stage(nn.AvgPool2d(2), None, channels=3, stride=2)
    assert "larger images" in error.value.hint
