"""ShuffleNet V2 for small images, at widths 1.0 and 1.5.

Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018,
arXiv:1807.11164. As distillation papers have it for CIFAR, it starts with a 1x1 convolution instead
of a strided 3x3 one and max-pooling. Weights keep torch's default initialisation.

`head` is the last convolution; the taps that methods pair stop before it. `stageN_pre` has its
channels in the order of `stageN`: the last shuffle comes before the last ReLU, which does not mind.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kdctl.layers.branches import ChannelShuffle, Concatenation, HalfThrough
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv1x1, conv_bn, conv_bn_relu, depthwise3x3
from kdctl.layers.public_names import CLASSIFIER, Names, numbered, rectified_units
from kdctl.protocols.backbone import PREACTIVATION, Backbone, models

_STEM = 24
_HEAD = 1024
_NUM_UNITS = (4, 8, 4)


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2:
    """ShuffleNet V2: halves of the channels take turns at being convolved, in three stages."""

    widths: tuple[int, int, int]
    """Channels of the stages."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("ShuffleNetV2", input_size)
        chain.add("stem", conv_bn_relu(conv1x1(RGB, _STEM)), channels=_STEM)
        for width, num_units in zip(self.widths, _NUM_UNITS, strict=True):
            units = [_halving_unit(chain.channels, width)]
            units += [_unit(width) for _ in range(num_units - 1)]
            chain.add_rectified_stage(units, channels=width, stride=2)
        chain.add("head", conv_bn_relu(conv1x1(chain.channels, _HEAD)), channels=_HEAD)
        return chain.close(num_classes)

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of kuangliu/pytorch-cifar, RepDistiller, SimKD and mdistiller."""
        yield from numbered("", [backbone.links["stem"]])
        for stage, tap in enumerate(backbone.stage_taps, start=1):
            for place, unit in enumerate(rectified_units(backbone.links[tap + PREACTIVATION])):
                yield from numbered(f"layer{stage}.{place}.", _convolutions(unit))
        yield from zip(("conv2", "bn2"), backbone.links["head"].children(), strict=False)
        yield CLASSIFIER, backbone.classifier


def _unit(width: int) -> nn.Module:
    """Return the unit that convolves one half; the other passes, and a ReLU to come leaves it as it is."""
    half = width // 2
    return nn.Sequential(HalfThrough(_bottleneck(half, half, stride=1)), ChannelShuffle(2))


def _halving_unit(in_channels: int, width: int) -> nn.Module:
    """Return the unit that halves the size and gives half of the channels on each of two ways."""
    half = width // 2
    short = nn.Sequential(
        conv_bn(depthwise3x3(in_channels, stride=2)),
        conv_bn(conv1x1(in_channels, half)),
    )
    return nn.Sequential(Concatenation(short, _bottleneck(in_channels, half, stride=2)), ChannelShuffle(2))


def _bottleneck(in_channels: int, half: int, *, stride: int) -> nn.Module:
    """Return 1x1, depthwise 3x3, 1x1, without the last ReLU."""
    return nn.Sequential(
        conv_bn_relu(conv1x1(in_channels, half)),
        conv_bn(depthwise3x3(half, stride=stride)),
        conv_bn(conv1x1(half, half)),
    )


def _convolutions(unit: nn.Module) -> list[nn.Module]:
    """Return the convolutions of a unit, each with its norm, those of the short way first."""
    ways = next(unit.children()).children()
    return [piece for way in ways for piece in way.children()]


models.register("shufflenetv2", label="ShuffleNetV2", aliases=("ShuffleV2",))(
    ShuffleNetV2(widths=(116, 232, 464))
)
models.register("shufflenetv2x1_5", label="ShuffleNetV2x1.5", aliases=("ShuffleV2_1_5",))(
    ShuffleNetV2(widths=(176, 352, 704))
)
