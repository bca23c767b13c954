"""Depthwise and pointwise convolutions: other ways to the same numbers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from kdctl.layers.conv import conv1x1, depthwise3x3

SMALL_MAPS = [(1, 1), (1, 4), (2, 2), (4, 4)]
MAPS = [(8, 1), (8, 2), (7, 2), (2, 1), (1, 1), (2, 2)]
"""Height and width, stride."""


def plain(layer: nn.Conv2d) -> nn.Conv2d:
    """Return torch's own layer with the same weights."""
    made = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
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


@pytest.mark.parametrize("size", SMALL_MAPS)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}], ids=str)
def test_a_pointwise_convolution_says_what_torch_says(
    size: tuple[int, int], memory_format: torch.memory_format, options: dict[str, int]
) -> None:
    torch.manual_seed(0)
    layer = conv1x1(6, 10, **options)
    images = torch.randn(4, 6, *size).contiguous(memory_format=memory_format)
    for ours, theirs in zip(pass_through(layer, images), pass_through(plain(layer), images), strict=True):
        torch.testing.assert_close(ours, theirs)
    layer.eval()
    assert torch.equal(layer(images), plain(layer)(images))


@pytest.mark.parametrize("size", SMALL_MAPS)
def test_on_small_maps_a_pointwise_convolution_is_a_matrix_product(size: tuple[int, int]) -> None:
    images = torch.randn(4, 6, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = conv1x1(6, 10)
    with (
        profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen,
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        output = layer(images)
        output.float().sum().backward()
    assert not [event.name for event in seen.events() if "convolution" in event.name]
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)


LAYERS = [conv1x1(6, 4), conv1x1(6, 4, stride=2), depthwise3x3(6), depthwise3x3(6, stride=2)]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_they_are_convolutions_for_profilers_which_look_for_the_exact_type(layer: nn.Conv2d) -> None:
    assert type(layer) is nn.Conv2d
    assert layer.state_dict().keys() == {"weight"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_copy_computes_with_its_own_weights(
    layer: nn.Conv2d, copied: Callable[[nn.Conv2d], nn.Conv2d]
) -> None:
    twin = copied(layer)
    with torch.no_grad():
        twin.weight.zero_()
    images = torch.ones(2, 6, 2, 2).contiguous(memory_format=torch.channels_last)
    for training in (True, False):
        assert not twin.train(training)(images).any()
        assert layer.train(training)(images).any()
