"""Ways to part a map and to bring its parts together: sums, residual blocks, concatenations, shuffles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdctl.layers.conv import conv1x1, conv3x3, conv_bn, conv_bn_relu


class Residual(nn.Module):
    """Branch plus shortcut, without the activation that may follow."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        """Add the output of `branch` to that of `shortcut`; None: to the input itself."""
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Return branch(features) + shortcut(features)."""
        return self.branch(features) + self.shortcut(features)


class Concatenation(nn.Module):
    """Two views of the same map, side by side along the channels."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        """Concatenate the outputs of `first` and `second`."""
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, features: Tensor) -> Tensor:
        """Return the two outputs concatenated: [B, C_first + C_second, H, W]."""
        return _side_by_side(self.first(features), self.second(features))


class HalfThrough(nn.Module):
    """Lets the first half of the channels pass untouched beside a branch over the second half."""

    def __init__(self, branch: nn.Module) -> None:
        """Apply `branch` to the second half of the channels."""
        super().__init__()
        self.branch = branch

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C, H, W] for [B, C, H, W], C even."""
        untouched, worked_on = features.chunk(2, dim=1)
        return _side_by_side(untouched, self.branch(worked_on))


class ChannelShuffle(nn.Module):
    """Takes one channel of each group in turn, so that grouped convolutions mix (arXiv:1707.01083)."""

    def __init__(self, groups: int) -> None:
        """Deal the channels of `groups` equal groups like cards."""
        super().__init__()
        self.groups = groups

    def forward(self, features: Tensor) -> Tensor:
        """Return the same channels, reordered: [B, C, H, W], C a multiple of the groups; channels last."""
        grouped = features.movedim(1, 3).unflatten(3, (self.groups, -1))
        return grouped.transpose(3, 4).flatten(3, 4).movedim(3, 1)


def _side_by_side(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate maps along the channels; either gets its gradient packed, not as a part of the whole.

    Batch norms take ten times as long over a gradient with gaps.
    """
    for part in (first, second):
        if part.requires_grad:
            part.register_hook(_packed)
    return torch.cat((first, second), dim=1)


def _packed(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


def basic_branch(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Return 3x3 (stride), BN, ReLU, 3x3, BN: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
    return nn.Sequential(
        conv_bn_relu(conv3x3(in_channels, out_channels, stride=stride)),
        conv_bn(conv3x3(out_channels, out_channels)),
    )


def projection_shortcut(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Module | None:
    """Return 1x1 (stride), BN where size or width change (option B of the paper); None: the identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    return conv_bn(conv1x1(in_channels, out_channels, stride=stride))


def basic_block(in_channels: int, out_channels: int, *, stride: int = 1) -> Residual:
    """Return a block of two 3x3 convolutions with a projection shortcut where needed."""
    return Residual(
        basic_branch(in_channels, out_channels, stride=stride),
        projection_shortcut(in_channels, out_channels, stride=stride),
    )
