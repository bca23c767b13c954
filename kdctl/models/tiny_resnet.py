"""Residual networks of a few layers for quick studies on CIFAR-10: resnet3 to resnet6, and resnet10.

There are results for a ResNet-10 that teaches ResNets of 3 to 6 layers (baselines 64, 70, 82, 87 and, of
the teacher, 90 %), but no account of their widths or of how odd depths come about. So this is our reading:
`resnet<n>` is one convolution, n - 2 more in residual pairs, and the classifier; where n is odd, the last
convolution stands alone, without a shortcut. Each pair (and the odd one) is a stage, of twice the width of
the one before; the first stage of ResNet-10 keeps the width of its stem.

Widths and strides are ours as well, chosen by trials on CIFAR-10. At full resolution and with the widths
of CIFAR's usual networks, 16 and 32, ResNet-3 to -6 underfit: train and test accuracy are low alike, since a
pixel of the last map sees 5 to 13 pixels of the image and channels are few. So all of them halve the map in
the stem, where channels are cheap. After five epochs of a cosine on 40,000 images, one seed, the test
accuracy (%) was:

    ResNet-3   49.8 and 51.5 with 32 and 64 channels; 58.9 with 64, a 5x5 stem and a max-pool behind it
    ResNet-4   61.3 and 64.1 with 32 and 64
    ResNet-5   67.5 and 70.3 with 32 and 64
    ResNet-6   70.5 with 32; 72.9 with 32 at full resolution, at four times the cost
    ResNet-10  76.2 with 48

So there are 48 channels (ResNet-3: 64, pooled): each student costs less than the next, with 5.9, 8.6, 11.2,
16.8 and, for ResNet-10, 35.7 million multiply-accumulate operations an image.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kdctl.layers.branches import basic_block
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv3x3, conv_bn, conv_bn_relu
from kdctl.layers.initialise import draw_convolutions
from kdctl.protocols.backbone import Backbone, models


@dataclass(frozen=True, kw_only=True)
class TinyResNet:
    """ResNet of a few layers behind a stem of stride 2, one post-activation basic block a stage."""

    depth: int
    """Layers with weights on the longest way through, the classifier included."""
    width: int
    """Channels of the stem."""
    widths: tuple[int, ...]
    """Channels of each stage. It halves the map, unless it keeps the width before it or follows a pool."""
    pooled: bool = False
    """Whether the stem is a 5x5 convolution and a max-pool instead of a 3x3 convolution."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("a tiny ResNet", input_size)
        if self.pooled:
            conv = nn.Conv2d(RGB, self.width, 5, stride=2, padding=2, bias=False)
            pool = nn.MaxPool2d(3, stride=2, padding=1)
            chain.add("stem", nn.Sequential(conv_bn_relu(conv), pool), channels=self.width, stride=4)
        else:
            stem = conv_bn_relu(conv3x3(RGB, self.width, stride=2))
            chain.add("stem", stem, channels=self.width, stride=2)
        num_pairs = (self.depth - 2) // 2
        for number, width in enumerate(self.widths):
            stride = 1 if width == chain.channels or (self.pooled and number == 0) else 2
            body = (
                basic_block(chain.channels, width, stride=stride)
                if number < num_pairs
                else conv_bn(conv3x3(chain.channels, width, stride=stride))
            )
            chain.add_rectified_stage([body], channels=width, stride=stride)
        backbone = chain.close(num_classes)
        draw_convolutions(backbone)
        return backbone


for _model in (
    TinyResNet(depth=3, width=64, widths=(128,), pooled=True),
    TinyResNet(depth=4, width=48, widths=(96,)),
    TinyResNet(depth=5, width=48, widths=(96, 192)),
    TinyResNet(depth=6, width=48, widths=(96, 192)),
    TinyResNet(depth=10, width=48, widths=(48, 96, 192, 384)),
):
    models.register(f"resnet{_model.depth}", label=f"ResNet-{_model.depth}", numerics=2)(_model)
