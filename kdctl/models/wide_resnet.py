"""Wide residual networks with pre-activation blocks: `wrn_<depth>_<widening>`.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146.

Each stage ends with the BN + ReLU that comes next in the network: that of the following stage's
first block, which reads nothing else, or the last one before pooling. So the tap `stageN` is what
the network goes on with, and `classifier(mean(stage3))` is its prediction; `stageN_pre` lies between
that BN and that ReLU. `stageN_raw` is the sum of residuals before both, unbounded on either side:
the map that RepDistiller and mdistiller expose as the stage. The tap `stem` is the first convolution
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kdctl.layers.branches import Residual
from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import bn_relu, conv1x1, conv3x3, conv_bn_relu
from kdctl.layers.initialise import draw_convolutions
from kdctl.layers.public_names import CLASSIFIER, Names
from kdctl.protocols.backbone import RAW, Backbone, models

_STEM = 16
_STRIDES = (1, 2, 2)


@dataclass(frozen=True, kw_only=True)
class WideResNet:
    """Wide ResNet with pre-activation blocks in three stages."""

    depth: int
    """6n + 4 with n blocks in each stage, as the paper counts."""
    widening: int
    """Factor on the widths 16, 32, 64 of the stages."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        num_blocks = (self.depth - 4) // 6
        chain = Chain("a wide ResNet", input_size)
        chain.add("stem", conv3x3(RGB, _STEM), channels=_STEM)
        for number, stride in enumerate(_STRIDES, start=1):
            width = _STEM * self.widening * 2 ** (number - 1)
            blocks = _stage(chain.channels, width, stride=stride, num_blocks=num_blocks)
            if number == 1 and width != _STEM:
                blocks.insert(0, bn_relu(_STEM))  # later stages find it at the end of the stage before
            chain.add(f"stage{number}{RAW}", nn.Sequential(*blocks), channels=width, stride=stride)
            chain.add_stage(nn.BatchNorm2d(width), nn.ReLU(), channels=width)
        backbone = chain.close(num_classes)
        draw_convolutions(backbone)
        return backbone

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of xternalz/WideResNet-pytorch, RepDistiller and mdistiller."""
        pieces = [piece for piece in backbone.modules() if isinstance(piece, nn.Conv2d | nn.BatchNorm2d)]
        names = ["conv1"]
        for stage in range(1, len(_STRIDES) + 1):
            for place in range((self.depth - 4) // 6):
                # The norm that we count to the end of a stage begins the next one's first block there.
                block = f"block{stage}.layer.{place}."
                names += [f"{block}{piece}" for piece in ("bn1", "conv1", "bn2", "conv2")]
                if place == 0 and (stage > 1 or self.widening > 1):
                    names.append(f"{block}convShortcut")
        yield from zip([*names, "bn1"], pieces, strict=True)
        yield CLASSIFIER, backbone.classifier


def _stage(in_channels: int, width: int, *, stride: int, num_blocks: int) -> list[nn.Module]:
    """Return the blocks of a stage; it gets an activated map exactly if its first block widens."""
    widens = in_channels != width
    first = _widening_block(in_channels, width, stride=stride) if widens else _block(width)
    return [first, *(_block(width) for _ in range(num_blocks - 1))]


def _block(width: int) -> Residual:
    """Return the block that keeps its width: the shortcut carries the raw input."""
    return Residual(nn.Sequential(bn_relu(width), *_branch(width, width, stride=1)))


def _widening_block(in_channels: int, width: int, *, stride: int) -> Residual:
    """Return the block that widens: branch and shortcut both read the activated input."""
    return Residual(
        _branch(in_channels, width, stride=stride),
        conv1x1(in_channels, width, stride=stride),
    )


def _branch(in_channels: int, width: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(conv3x3(in_channels, width, stride=stride)), conv3x3(width, width))


for _depth, _widening in ((16, 2), (16, 4), (28, 2), (28, 4), (40, 1), (40, 2), (40, 4)):
    models.register(f"wrn_{_depth}_{_widening}", label=f"WRN-{_depth}-{_widening}")(
        WideResNet(depth=_depth, widening=_widening)
    )
