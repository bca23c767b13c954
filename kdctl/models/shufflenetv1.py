"""ShuffleNet V1 for small images.

Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
CVPR 2018, arXiv:1707.01083, with three groups. As distillation papers have it for CIFAR, it starts
with a 1x1 convolution instead of a strided 3x3 one and max-pooling, and rectifies after the
depthwise convolution, where the paper does not. Weights keep torch's default initialisation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kdctl.layers.branches import ChannelShuffle, Concatenation, Residual
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv1x1, conv_bn, conv_bn_relu, depthwise3x3
from kdctl.layers.public_names import CLASSIFIER, Names, numbered, rectified_units
from kdctl.protocols.backbone import PREACTIVATION, Backbone, models

_STEM = 24
_BOTTLENECK = 4


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV1:
    """ShuffleNet V1: grouped pointwise convolutions with channel shuffles, in three stages."""

    groups: int
    """Groups of the pointwise convolutions."""
    widths: tuple[int, int, int]
    """Channels of the stages."""
    num_units: tuple[int, int, int]
    """Units in each stage, the one that halves the size included."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("ShuffleNetV1", input_size)
        chain.add("stem", conv_bn_relu(conv1x1(RGB, _STEM)), channels=_STEM)
        for width, num_units in zip(self.widths, self.num_units, strict=True):
            units = [self._halving_unit(chain.channels, width)]
            units += [Residual(self._branch(width, width)) for _ in range(num_units - 1)]
            chain.add_rectified_stage(units, channels=width, stride=2)
        return chain.close(num_classes)

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of kuangliu/pytorch-cifar, RepDistiller, SimKD and mdistiller."""
        yield from numbered("", [backbone.links["stem"]])
        for stage, tap in enumerate(backbone.stage_taps, start=1):
            for place, unit in enumerate(rectified_units(backbone.links[tap + PREACTIVATION])):
                yield from numbered(f"layer{stage}.{place}.", _convolutions(unit))
        yield CLASSIFIER, backbone.classifier

    def _halving_unit(self, in_channels: int, width: int) -> nn.Module:
        """Return the unit whose branch gives only the channels that the pooled input leaves open."""
        return Concatenation(
            self._branch(in_channels, width - in_channels, stride=2),
            nn.AvgPool2d(3, stride=2, padding=1),
        )

    def _branch(self, in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Module:
        hidden = out_channels // _BOTTLENECK
        # The stem is too narrow to be parted (section 3.2 of the paper).
        groups = 1 if in_channels == _STEM else self.groups
        return nn.Sequential(
            conv_bn_relu(conv1x1(in_channels, hidden, groups=groups)),
            ChannelShuffle(groups),
            conv_bn_relu(depthwise3x3(hidden, stride=stride)),
            conv_bn(conv1x1(hidden, out_channels, groups=self.groups)),
        )


def _convolutions(unit: nn.Module) -> list[nn.Module]:
    """Return the convolutions of a unit, each with its norm."""
    branch = next(unit.children())
    return [piece for piece in branch.children() if isinstance(piece, nn.Sequential)]


models.register("shufflenetv1", label="ShuffleNetV1", aliases=("ShuffleV1",))(
    ShuffleNetV1(groups=3, widths=(240, 480, 960), num_units=(4, 8, 4))
)
