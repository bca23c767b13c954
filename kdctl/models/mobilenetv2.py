"""MobileNetV2 for small images, at half and at full width.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381.

As distillation papers have it for CIFAR, it differs from the paper: the stage of 24 channels keeps
the size, so that 32x32 images end as 2x2 maps; activations are ReLU, not ReLU6; the block without
expansion has its 1x1 convolution all the same; the last convolution is 1280 wide at any width.

A stage ends where the next block halves the size, and ends linearly: its map may be negative. `head` is
the last convolution; the taps that methods pair stop before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from kdctl.layers.branches import Residual
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv1x1, conv3x3, conv_bn, conv_bn_relu, depthwise3x3
from kdctl.layers.initialise import draw_classifier, draw_convolutions
from kdctl.layers.public_names import Names
from kdctl.protocols.backbone import Backbone, models

_STEM = 32
_HEAD = 1280


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Equal blocks in a row, of which the first may change width and size (Table 2 of the paper)."""

    width: int
    num_blocks: int
    expansion: int = 6


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """Groups between two changes of size."""

    stride: int
    groups: tuple[_Group, ...]


_STAGES = (
    _Stage(stride=1, groups=(_Group(width=16, num_blocks=1, expansion=1), _Group(width=24, num_blocks=2))),
    _Stage(stride=2, groups=(_Group(width=32, num_blocks=3),)),
    _Stage(stride=2, groups=(_Group(width=64, num_blocks=4), _Group(width=96, num_blocks=3))),
    _Stage(stride=2, groups=(_Group(width=160, num_blocks=3), _Group(width=320, num_blocks=1))),
)


@dataclass(frozen=True, kw_only=True)
class MobileNetV2:
    """MobileNetV2 with four stages of inverted residuals."""

    width: float
    """Factor on all widths but that of the last convolution."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("MobileNetV2", input_size)
        stem = self._scaled(_STEM)
        chain.add("stem", conv_bn_relu(conv3x3(RGB, stem, stride=2)), channels=stem, stride=2)
        for stage in _STAGES:
            blocks = nn.Sequential(*self._blocks(chain.channels, stage))
            width = self._scaled(stage.groups[-1].width)
            chain.add_stage(blocks, None, channels=width, stride=stage.stride)
        chain.add("head", conv_bn_relu(conv1x1(chain.channels, _HEAD)), channels=_HEAD)
        backbone = chain.close(num_classes)
        draw_convolutions(backbone)
        draw_classifier(backbone.classifier)
        return backbone

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of tonylins/pytorch-mobilenet-v2, RepDistiller, SimKD and mdistiller."""
        blocks = [block for tap in backbone.stage_taps for block in backbone.links[tap].children()]
        groups = [group for stage in _STAGES for group in stage.groups]
        places = [(number, place) for number, group in enumerate(groups) for place in range(group.num_blocks)]
        yield from zip(("conv1.0", "conv1.1"), backbone.links["stem"].children(), strict=False)
        for (number, place), block in zip(places, blocks, strict=True):
            branch = block.branch if isinstance(block, Residual) else block
            for piece, (conv, norm, *_) in enumerate(pair.children() for pair in branch.children()):
                yield f"blocks.{number}.{place}.conv.{3 * piece}", conv
                yield f"blocks.{number}.{place}.conv.{3 * piece + 1}", norm
        yield from zip(("conv2.0", "conv2.1"), backbone.links["head"].children(), strict=False)
        yield "classifier.0|classifier|classifier.1", backbone.classifier

    def _scaled(self, width: int) -> int:
        return int(width * self.width)

    def _blocks(self, in_channels: int, stage: _Stage) -> Iterator[nn.Module]:
        stride = stage.stride
        for group in stage.groups:
            width = self._scaled(group.width)
            for _ in range(group.num_blocks):
                yield _inverted_residual(in_channels, width, stride=stride, expansion=group.expansion)
                in_channels, stride = width, 1


def _inverted_residual(in_channels: int, width: int, *, stride: int, expansion: int) -> nn.Module:
    """Return 1x1 up, depthwise 3x3, 1x1 down without activation; a residual where the shape stays."""
    hidden = in_channels * expansion
    branch = nn.Sequential(
        conv_bn_relu(conv1x1(in_channels, hidden)),
        conv_bn_relu(depthwise3x3(hidden, stride=stride)),
        conv_bn(conv1x1(hidden, width)),
    )
    return Residual(branch) if stride == 1 and in_channels == width else branch


models.register("mobilenetv2", label="MobileNetV2", aliases=("mobile_half", "MobileNetV2_0_5"))(
    MobileNetV2(width=0.5)
)
models.register("mobilenetv2x2", label="MobileNetV2x2", aliases=("mobile_half_double", "MobileNetV2_1_0"))(
    MobileNetV2(width=1.0)
)
