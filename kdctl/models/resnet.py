"""ResNets for small images, as distillation papers use them: three stages of basic blocks.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section 4.2,
but with a 1x1 convolution and BN in the shortcut wherever the width or the size changes.

`resnet8x4` and the like are wider. The `wrn_*_post` are what the SimKD line of papers calls a WRN: as
many blocks of the same width as the wide ResNet, but these post-activation ones (`resnet38x2` in its
code). Their parameters differ a little from those of the true `wrn_*`.

`resnet<depth>_a` are those of the paper, whose shortcuts have no parameters (option A).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from kdctl.layers.branches import Residual, basic_block, basic_branch
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv3x3, conv_bn_relu
from kdctl.layers.initialise import draw_convolutions
from kdctl.layers.public_names import Names, rectified_resnet
from kdctl.protocols.backbone import Backbone, models

_NARROWEST = 16
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


def option_a_block(in_channels: int, width: int, *, stride: int = 1) -> Residual:
    """Return a basic block whose shortcut has no parameters, whatever the widths."""
    if in_channels == width:
        return basic_block(width, width, stride=stride)
    branch = basic_branch(in_channels, width, stride=stride)
    return Residual(branch, PaddedShortcut(width - in_channels, stride))


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """ResNet with post-activation basic blocks in three stages."""

    num_blocks: int
    """Blocks in each stage."""
    stem: int = 16
    """Channels of the first convolution."""
    widening: int = 1
    """Factor on the widths 16, 32, 64 of the stages."""
    first_block: Callable[..., Residual] = basic_block
    """Builds the first block of a stage, from its channels in and out and its stride."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("a CIFAR ResNet", input_size)
        chain.add("stem", conv_bn_relu(conv3x3(RGB, self.stem)), channels=self.stem)
        for number, stride in enumerate(_STRIDES):
            width = _NARROWEST * self.widening * 2**number
            first = self.first_block(chain.channels, width, stride=stride)
            others = [basic_block(width, width) for _ in range(self.num_blocks - 1)]
            chain.add_rectified_stage([first, *others], channels=width, stride=stride)
        backbone = chain.close(num_classes)
        draw_convolutions(backbone)
        return backbone

    def public_names(self, backbone: Backbone) -> Names:
        """Yield those of RepDistiller, SimKD and mdistiller, and of akamaster/pytorch_resnet_cifar10."""
        return rectified_resnet(backbone)


for _depth in (8, 14, 20, 32, 44, 56, 110, 116):
    models.register(f"resnet{_depth}", label=f"ResNet-{_depth}")(ResNet(num_blocks=(_depth - 2) // 6))

for _depth, _widening, _stem in ((8, 4, 32), (32, 4, 32), (110, 2, 16)):
    models.register(f"resnet{_depth}x{_widening}", label=f"ResNet-{_depth}x{_widening}")(
        ResNet(num_blocks=(_depth - 2) // 6, stem=_stem, widening=_widening)
    )

# Depth and widening are those of the wide ResNet it stands for; four times wide, it has a wider stem as well.
for _depth, _widening, _stem, _alias in (
    (16, 2, 16, "resnet14x2"),
    (16, 4, 32, "resnet14x4"),
    (28, 4, 32, "resnet26x4"),
    (40, 1, 16, "resnet38"),
    (40, 2, 16, "resnet38x2"),
    (40, 4, 32, "resnet38x4"),
):
    models.register(
        f"wrn_{_depth}_{_widening}_post",
        label=f"WRN-{_depth}-{_widening} (post-act)",
        aliases=(_alias,),
    )(ResNet(num_blocks=(_depth - 4) // 6, stem=_stem, widening=_widening))

for _depth in (20, 32, 44, 56, 110):
    models.register(f"resnet{_depth}_a", label=f"ResNet-{_depth} (option A)")(
        ResNet(num_blocks=(_depth - 2) // 6, first_block=option_a_block)
    )
