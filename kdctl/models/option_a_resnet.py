"""The CIFAR ResNets of the original paper, whose shortcuts have no parameters: `resnet<depth>_a`.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section 4.2,
option A. Distillation papers use the variant of `resnet<depth>`, with convolutions in the shortcuts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from kdctl.layers.branches import Residual, basic_block, basic_branch
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv3x3, conv_bn_relu
from kdctl.layers.initialise import draw_convolutions
from kdctl.layers.public_names import Names, rectified_resnet
from kdctl.protocols.backbone import Backbone, models

_WIDTHS = (16, 32, 64)
_STRIDES = (1, 2, 2)


class PaddedShortcut(nn.Module):
    """Every so many-th pixel, between channels of zeros."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        """Add `extra_channels` (an even number) to every `stride`-th pixel, half of them on each side."""
        super().__init__()
        self.extra_channels = extra_channels
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C + extra, H / stride, W / stride] for [B, C, H, W], sizes rounded up."""
        thinned = features[:, :, :: self.stride, :: self.stride]
        # The paper does not say where the zeros go. All orders of channels are alike to a network that
        # is trained from scratch; weights from elsewhere need the order of the code that trained them.
        side = self.extra_channels // 2
        return functional.pad(thinned, (0, 0, 0, 0, side, side))


@dataclass(frozen=True, kw_only=True)
class OptionAResNet:
    """ResNet with post-activation basic blocks and shortcuts without parameters, in three stages."""

    num_blocks: int
    """Blocks in each stage."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("an option A ResNet", input_size)
        stem = _WIDTHS[0]
        chain.add("stem", conv_bn_relu(conv3x3(RGB, stem)), channels=stem)
        for width, stride in zip(_WIDTHS, _STRIDES, strict=True):
            first = _first_block(chain.channels, width, stride=stride)
            others = [basic_block(width, width) for _ in range(self.num_blocks - 1)]
            chain.add_rectified_stage([first, *others], channels=width, stride=stride)
        backbone = chain.close(num_classes)
        draw_convolutions(backbone)
        return backbone

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of He et al.'s followers: akamaster/pytorch_resnet_cifar10 and its forks."""
        return rectified_resnet(backbone)


def _first_block(in_channels: int, width: int, *, stride: int) -> Residual:
    if in_channels == width:
        return basic_block(width, width)
    return Residual(
        basic_branch(in_channels, width, stride=stride),
        PaddedShortcut(width - in_channels, stride),
    )


for _depth in (20, 32, 44, 56, 110):
    models.register(f"resnet{_depth}_a", label=f"ResNet-{_depth} (option A)")(
        OptionAResNet(num_blocks=(_depth - 2) // 6)
    )
