"""Convolutions as the networks of this field write them: without bias, then normalised, then rectified."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

_FEW_POSITIONS = 16
"""Of a map: up to here a matrix product is faster than a pointwise convolution, on a CPU."""


def conv1x1(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a pointwise convolution without bias: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
    conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, groups=groups, bias=False)
    return _computed_by(_pointwise, conv) if stride == groups == 1 else conv


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution without bias: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def depthwise3x3(channels: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution that keeps its channels apart."""
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return _computed_by(_depthwise, conv)


def _computed_by(compute: Callable[[nn.Conv2d, Tensor], Tensor], conv: nn.Conv2d) -> nn.Conv2d:
    """Let `conv` compute its output in another way, and keep its type.

    Profilers (thop, ptflops) look layers up by their exact type and would count a subclass as nothing.
    """
    own_forward = functools.partial(compute, conv)  # a copy of the layer gets one of its own
    conv.forward = own_forward  # pyright: ignore[reportAttributeAccessIssue]
    return conv


def _pointwise(conv: nn.Conv2d, features: Tensor) -> Tensor:
    """Return a pointwise convolution, on small maps as the matrix product it amounts to.

    A CPU takes up to four times as long for the convolution there: its backward pass parts the work by
    images, and a map of 2x2 is little work (docs/log.md).
    """
    if not (
        conv.training
        and features.device.type == "cpu"
        and features.shape[2] * features.shape[3] <= _FEW_POSITIONS
        and features.is_contiguous(memory_format=torch.channels_last)
    ):
        return nn.Conv2d.forward(conv, features)
    weights = conv.weight.view(conv.out_channels, conv.in_channels)
    return functional.linear(features.permute(0, 2, 3, 1), weights, conv.bias).permute(0, 3, 1, 2)


def _depthwise(conv: nn.Conv2d, features: Tensor) -> Tensor:
    """Return a padded depthwise convolution that walks around two holes in a CPU's backward pass.

    One takes a hundred times as long in bf16 as in fp32: the gradient of the input, if there is a stride. The
    other up to twenty times: that of the weights, where the map is smaller than the kernel (docs/log.md).
    """
    if not conv.training or features.device.type != "cpu":
        return nn.Conv2d.forward(conv, features)
    if conv.stride != (1, 1):
        with torch.autocast("cpu", enabled=False):
            return nn.Conv2d.forward(conv, features.to(conv.weight.dtype))
    if features.shape[-1] < conv.kernel_size[-1]:
        above, left = conv.kernel_size[0] // 2, conv.kernel_size[1] // 2
        padded = functional.pad(features, (left, left, above, above))
        return functional.conv2d(padded, conv.weight, conv.bias, groups=conv.groups)
    return nn.Conv2d.forward(conv, features)


def conv_bn(conv: nn.Conv2d) -> nn.Sequential:
    """Return `conv`, batch normalisation."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))


def conv_bn_relu(conv: nn.Conv2d) -> nn.Sequential:
    """Return `conv`, batch normalisation, ReLU."""
    return nn.Sequential(conv, *bn_relu(conv.out_channels))


def bn_relu(channels: int) -> nn.Sequential:
    """Return batch normalisation, ReLU: what a pre-activation network puts before its convolutions."""
    # In place is safe here: nobody else sees the normalised map, and its own gradient does not need it.
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
