"""Convolutions as the networks of this field write them: without bias, then normalised, then rectified."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_FEW_POSITIONS = 16
"""Of a map: up to here a matrix product is faster than a pointwise convolution, on a CPU."""


def conv1x1(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a pointwise convolution without bias: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
    return PointwiseConv(in_channels, out_channels, 1, stride=stride, groups=groups, bias=False)


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution without bias: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def depthwise3x3(channels: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution that keeps its channels apart."""
    return DepthwiseConv(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)


class PointwiseConv(nn.Conv2d):
    """A pointwise convolution that on small maps is the matrix product it amounts to.

    A CPU takes up to four times as long for the convolution there: its backward pass parts the work by
    images, and a map of 2x2 is little work (docs/log.md).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch calls it so)
        """Return the map: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
        if not (self.training and input.device.type == "cpu" and self._is_product(input)):
            return super().forward(input)
        weights = self.weight.view(self.out_channels, self.in_channels)
        return functional.linear(input.permute(0, 2, 3, 1), weights, self.bias).permute(0, 3, 1, 2)

    def _is_product(self, maps: Tensor) -> bool:
        """Say whether one matrix product does it, on maps so small that it is the faster way."""
        return (
            self.stride == (1, 1)
            and self.groups == 1
            and maps.shape[2] * maps.shape[3] <= _FEW_POSITIONS
            and maps.is_contiguous(memory_format=torch.channels_last)
        )


class DepthwiseConv(nn.Conv2d):
    """A padded depthwise convolution that walks around two holes in a CPU's backward pass.

    One takes a hundred times as long in bf16 as in fp32: the gradient of the input, if there is a stride. The
    other up to twenty times: that of the weights, where the map is smaller than the kernel (docs/log.md).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch calls it so)
        """Return the map: [B, C, H, W] -> [B, C, H / stride, W / stride]."""
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        if self.stride != (1, 1):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.to(self.weight.dtype))
        if input.shape[-1] < self.kernel_size[-1]:
            above, left = self.kernel_size[0] // 2, self.kernel_size[1] // 2
            padded = functional.pad(input, (left, left, above, above))
            return functional.conv2d(padded, self.weight, self.bias, groups=self.groups)
        return super().forward(input)


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
