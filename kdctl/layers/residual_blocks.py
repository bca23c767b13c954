"""Post-activation residual blocks of ResNets (arXiv:1512.03385), each without its last ReLU.

The ReLU after a block belongs to the stage, so that a stage's map can be seen before it.
"""

from __future__ import annotations

from torch import nn

from kdctl.layers.branches import Residual
from kdctl.layers.conv import conv1x1, conv3x3, conv_bn, conv_bn_relu


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
