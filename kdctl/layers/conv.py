"""Convolutions as the networks of this field write them: without bias, then normalised, then rectified."""

from __future__ import annotations

from torch import nn


def conv1x1(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a pointwise convolution without bias: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, groups=groups, bias=False)


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution without bias: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def depthwise3x3(channels: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution that keeps its channels apart."""
    return conv3x3(channels, channels, stride=stride, groups=channels)


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
