"""Residual networks of a few layers for quick studies on CIFAR-10: resnet3 to resnet6, and resnet10.

There are results for a ResNet-10 that teaches ResNets of 3 to 6 layers, but no account of their widths
or of how odd depths come about. So this is our reading: `resnet<n>` is one convolution, n - 2 more in
residual pairs, and the classifier; where n is odd, the last convolution stands alone, without a
shortcut. Each pair (and the odd one) is a stage. The widths are ours as well: 16 channels in the
first convolution and the first stage, doubled from stage to stage, up to 128 in ResNet-10.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv3x3, conv_bn, conv_bn_relu
from kdctl.layers.initialise import draw_convolutions
from kdctl.layers.residual_blocks import basic_block
from kdctl.protocols.backbone import Backbone, models

_NARROWEST = 16


@dataclass(frozen=True, kw_only=True)
class TinyResNet:
    """ResNet of a few layers, one post-activation basic block a stage."""

    depth: int
    """Layers with weights on the longest way through, the classifier included."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("a tiny ResNet", input_size)
        chain.add("stem", conv_bn_relu(conv3x3(RGB, _NARROWEST)), channels=_NARROWEST)
        num_pairs, num_unpaired = divmod(self.depth - 2, 2)
        for number in range(num_pairs + num_unpaired):
            width = _NARROWEST * 2**number
            stride = 1 if number == 0 else 2
            body = (
                basic_block(chain.channels, width, stride=stride)
                if number < num_pairs
                else conv_bn(conv3x3(chain.channels, width, stride=stride))
            )
            chain.add_rectified_stage([body], channels=width, stride=stride)
        backbone = chain.close(num_classes)
        draw_convolutions(backbone)
        return backbone


for _depth in (3, 4, 5, 6, 10):
    models.register(f"resnet{_depth}", label=f"ResNet-{_depth}")(TinyResNet(depth=_depth))
