"""VGGs with batch normalisation for small images: vgg8, vgg11, vgg13.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, arXiv:1409.1556, in the layout of distillation papers: five groups of 3x3 convolutions
(with bias, although BN follows), one linear classifier on the pooled map. vgg8 has one convolution
a group, which the paper has not.

The first group is the `stem`; the others are the stages. Images are halved before stages 1 to 3, and
from 64x64 on before stage 4 as well, so that the last map stays near 4x4.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kdctl.layers.chain import RGB, Chain
from kdctl.layers.conv import conv_bn, conv_bn_relu
from kdctl.layers.initialise import draw_classifier, draw_convolutions
from kdctl.layers.public_names import CLASSIFIER, Names, rectified_units
from kdctl.protocols.backbone import PREACTIVATION, Backbone, models

_WIDTHS = (64, 128, 256, 512, 512)
_SMALLEST_HALVED_FOUR_TIMES = 64


@dataclass(frozen=True, kw_only=True)
class Vgg:
    """VGG with batch normalisation, in five groups of 3x3 convolutions."""

    depths: tuple[int, int, int, int, int]
    """Convolutions in each group."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        chain = Chain("VGG", input_size)
        (stem_depth, *depths), (stem_width, *widths) = self.depths, _WIDTHS
        stem = _convolutions(RGB, stem_width, depth=stem_depth)
        chain.add("stem", nn.Sequential(*stem, nn.ReLU(inplace=True)), channels=stem_width)
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            halves = stage < len(widths) or input_size >= _SMALLEST_HALVED_FOUR_TIMES
            # Odd sizes round up, as they do in the strided convolutions of other families.
            pool = [nn.MaxPool2d(2, ceil_mode=True)] if halves else []
            body = nn.Sequential(*pool, *_convolutions(chain.channels, width, depth=depth))
            chain.add_rectified_stage([body], channels=width, stride=2 if halves else 1)
        backbone = chain.close(num_classes)
        draw_convolutions(backbone)
        draw_classifier(backbone.classifier)
        return backbone

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of RepDistiller, SimKD and mdistiller."""
        stages = [rectified_units(backbone.links[tap + PREACTIVATION])[0] for tap in backbone.stage_taps]
        for number, group in enumerate([backbone.links["stem"], *stages]):
            pairs = [piece for piece in group.children() if isinstance(piece, nn.Sequential)]
            for place, (conv, norm, *_) in enumerate(pairs):
                yield f"block{number}.{3 * place}", conv
                yield f"block{number}.{3 * place + 1}", norm
        yield CLASSIFIER, backbone.classifier


def _convolutions(in_channels: int, width: int, *, depth: int) -> list[nn.Module]:
    """Return `depth` convolutions with BN, a ReLU between any two."""
    before = [in_channels, *[width] * (depth - 1)]
    *inner, last = (nn.Conv2d(channels, width, 3, padding=1) for channels in before)
    return [*(conv_bn_relu(conv) for conv in inner), conv_bn(last)]


for _name, _depths in {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
}.items():
    models.register(_name, label=f"VGG-{_name.removeprefix('vgg')}", aliases=(f"{_name}_bn",))(
        Vgg(depths=_depths)
    )
