"""Residual networks of a few layers for quick studies on CIFAR-10: resnet3 to resnet6, and resnet10.

There are results for a ResNet-10 that teaches ResNets of 3 to 6 layers (baselines 64, 70, 82, 87 and, of
the teacher, 90 %), but no account of their widths or of how odd depths come about. So this is our reading:
`resnet<n>` is one convolution, n - 2 more in residual pairs, and the classifier; where n is odd, the last
convolution stands alone, without a shortcut. Each pair (and the odd one) is a stage, of twice the width of
the one before.

The widths are ours as well, chosen by size and field of view; nobody has measured them on CIFAR-10 yet. A
pixel of the last map sees 5, 7, 9 and 13 pixels across in ResNet-3 to -6: averages over so small patches
need many channels. With 16 in the first stage ResNet-3 and -4 would have 3,000 and 5,000 weights, too few
for 64 and 70 %. With 64 ResNet-6 has 310,000, four times those of the ResNet-8 of MLPerf Tiny, which
reaches 87 % and sees more of the image. ResNet-10 starts with 32: its 1.2 million weights are more than
any student's, while 64 would make it as wide as ResNet-18, which passes 90 % by far.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdctl.layers.branches import basic_block
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv3x3, conv_bn, conv_bn_relu
from kdctl.layers.initialise import draw_convolutions
from kdctl.protocols.backbone import Backbone, models


@dataclass(frozen=True, kw_only=True)
class TinyResNet:
    """ResNet of a few layers, one post-activation basic block a stage."""

    depth: int
    """Layers with weights on the longest way through, the classifier included."""
    narrowest: int
    """Channels of the first convolution and of the first stage."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("a tiny ResNet", input_size)
        chain.add("stem", conv_bn_relu(conv3x3(RGB, self.narrowest)), channels=self.narrowest)
        num_pairs, num_unpaired = divmod(self.depth - 2, 2)
        for number in range(num_pairs + num_unpaired):
            width = self.narrowest * 2**number
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


for _depth, _narrowest in {3: 64, 4: 64, 5: 64, 6: 64, 10: 32}.items():
    models.register(f"resnet{_depth}", label=f"ResNet-{_depth}")(
        TinyResNet(depth=_depth, narrowest=_narrowest)
    )
