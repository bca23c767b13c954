"""ResNet-18 to -101 in the widths of ImageNet, for small images and for large ones.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, Table 1. In
bottlenecks the 3x3 convolution carries the stride.

`resnet18` and the like are for small images, as papers on CIFAR have them: the first convolution is 3x3
with stride 1, and no max-pooling follows, so that a 32x32 image ends as a 4x4 map. `resnet18_imagenet` and
the like begin as in the paper, and are those of torchvision: a 224x224 image ends as a 7x7 map.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kdctl.layers.branches import Residual, basic_block, projection_shortcut
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv1x1, conv3x3, conv_bn, conv_bn_relu
from kdctl.layers.initialise import draw_convolutions
from kdctl.layers.public_names import Names, rectified_resnet
from kdctl.protocols.backbone import Backbone, models

_STEM = 64
_STRIDES = (1, 2, 2, 2)
_EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class DeepResNet:
    """ResNet with four stages of basic or bottleneck blocks, 64 to 512 channels in their convolutions."""

    num_blocks: tuple[int, int, int, int]
    """Blocks in each stage."""
    bottleneck: bool = False
    """Blocks are 1x1, 3x3, 1x1 and four times as wide outside; else 3x3, 3x3."""
    large_images: bool = False
    """Begins with a 7x7 convolution with stride 2 and a max-pooling with stride 2; else with a 3x3 one."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("a deep ResNet", input_size)
        if self.large_images:
            chain.add("stem", _large_stem(), channels=_STEM, stride=4)
        else:
            chain.add("stem", conv_bn_relu(conv3x3(RGB, _STEM)), channels=_STEM)
        block = _bottleneck_block if self.bottleneck else basic_block
        for number, (num_blocks, stride) in enumerate(zip(self.num_blocks, _STRIDES, strict=True)):
            width = _STEM * 2**number * (_EXPANSION if self.bottleneck else 1)
            blocks = [block(chain.channels, width, stride=stride)]
            blocks += [block(width, width) for _ in range(num_blocks - 1)]
            chain.add_rectified_stage(blocks, channels=width, stride=stride)
        backbone = chain.close(num_classes)
        draw_convolutions(backbone)
        return backbone

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of torchvision, timm, RepDistiller and mdistiller."""
        return rectified_resnet(backbone)


def _large_stem() -> nn.Sequential:
    """Return 7x7 (stride 2), BN, ReLU, max-pooling 3x3 (stride 2): the tap `stem` is behind all of it.

    So it is in SimKD's code; mdistiller has it before the pooling.
    """
    conv = nn.Conv2d(RGB, _STEM, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(*conv_bn_relu(conv), nn.MaxPool2d(3, stride=2, padding=1))


def _bottleneck_block(in_channels: int, out_channels: int, *, stride: int = 1) -> Residual:
    """Return a residual block of 1x1, 3x3 (stride) and 1x1, without its last ReLU."""
    hidden = out_channels // _EXPANSION
    branch = nn.Sequential(
        conv_bn_relu(conv1x1(in_channels, hidden)),
        conv_bn_relu(conv3x3(hidden, hidden, stride=stride)),
        conv_bn(conv1x1(hidden, out_channels)),
    )
    return Residual(branch, projection_shortcut(in_channels, out_channels, stride=stride))


for _depth, _num_blocks in ((18, (2, 2, 2, 2)), (34, (3, 4, 6, 3)), (50, (3, 4, 6, 3)), (101, (3, 4, 23, 3))):
    if _depth < 101:
        models.register(f"resnet{_depth}", label=f"ResNet-{_depth}")(
            DeepResNet(num_blocks=_num_blocks, bottleneck=_depth >= 50)
        )
    models.register(f"resnet{_depth}_imagenet", label=f"ResNet-{_depth} (ImageNet)")(
        DeepResNet(num_blocks=_num_blocks, bottleneck=_depth >= 50, large_images=True)
    )
