"""Depthwise convolutions: other ways to the same numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from kdctl.layers.conv import DepthwiseConv, depthwise3x3

MAPS = [(8, 1), (8, 2), (7, 2), (2, 1), (1, 1), (2, 2)]
"""Height and width, stride."""


def plain(layer: nn.Conv2d) -> nn.Conv2d:
    """Return torch's own layer with the same weights."""
    made = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        3,
        stride=layer.stride,
        padding=1,
        groups=layer.groups,
        bias=False,
    )
    made.load_state_dict(copy.deepcopy(layer.state_dict()))
    return made


def pass_through(layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and the gradients of the input and of the weights."""
    features = images.clone().requires_grad_()
    output = layer(features)
    output.float().square().sum().backward()
    weights = next(layer.parameters())
    assert features.grad is not None
    assert weights.grad is not None
    return output, features.grad, weights.grad


@pytest.mark.parametrize(("size", "stride"), MAPS)
def test_a_depthwise_convolution_says_what_torch_says(size: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = depthwise3x3(6, stride=stride)
    images = torch.randn(4, 6, size, size).contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(pass_through(layer, images), pass_through(plain(layer), images), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("size", "stride"), MAPS)
def test_in_evaluation_it_is_torchs_own_to_the_bit(size: int, stride: int) -> None:
    layer = depthwise3x3(6, stride=stride).eval()
    images = torch.randn(4, 6, size, size)
    assert torch.equal(layer(images), plain(layer)(images))


@pytest.mark.parametrize(("size", "stride"), MAPS)
def test_under_autocast_it_stays_within_the_digits_of_bf16(size: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = depthwise3x3(6, stride=stride)
    images = torch.randn(4, 6, size, size)
    exact = pass_through(layer, images)
    layer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = pass_through(layer, images)
    for left, right in zip(exact, rough, strict=True):
        torch.testing.assert_close(right.float(), left, rtol=0.05, atol=0.1)


def test_a_strided_one_computes_in_fp32_under_autocast_and_in_bf16_with_such_weights() -> None:
    images = torch.randn(2, 6, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert depthwise3x3(6, stride=2)(images.bfloat16()).dtype == torch.float32
        assert depthwise3x3(6)(images).dtype == torch.bfloat16
    assert depthwise3x3(6, stride=2).bfloat16()(images).dtype == torch.bfloat16


def test_it_is_a_convolution_for_whoever_looks_for_one() -> None:
    layer = depthwise3x3(6)
    assert isinstance(layer, DepthwiseConv)
    assert isinstance(layer, nn.Conv2d)
    assert layer.state_dict().keys() == {"weight"}
