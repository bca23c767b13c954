"""MobileNetV2 of torchvision, for images of 224 pixels.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381. The
modules are torchvision's own, with ReLU6; its dropout before the classifier is left out, as in the SimKD
code. `mobilenetv2x2` is the one that distillation papers train on small images.

A stage ends where the next block halves the size, and ends linearly: its map may be negative. `head` is
the last convolution; the taps that methods pair stop before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from kdctl.layers.chain import Chain
from kdctl.layers.public_names import Names, names_of_original
from kdctl.protocols.backbone import Backbone, models

_STAGES = ((1, 4), (4, 7), (7, 14), (14, 18))
"""First and last block of each, of torchvision's `features`."""


@dataclass(frozen=True, kw_only=True)
class ImagenetMobileNetV2:
    """MobileNetV2 at full width with four stages of inverted residuals, for large images."""

    def __call__(self, num_classes: int, input_size: int) -> Backbone:
        """Build it with freshly drawn weights."""
        original = _original(num_classes)
        features: list[Any] = list(original.features)
        chain = Chain("MobileNetV2", input_size)
        chain.add("stem", features[0], channels=features[0].out_channels, stride=2)
        for first, last in _STAGES:
            blocks = features[first:last]
            chain.add_stage(nn.Sequential(*blocks), None, channels=blocks[-1].out_channels, stride=2)
        chain.add("head", features[-1], channels=features[-1].out_channels)
        backbone = chain.close(num_classes)
        backbone.classifier = original.classifier[-1]
        return backbone

    def public_names(self, backbone: Backbone) -> Names:
        """Yield the names of torchvision."""
        return names_of_original(backbone, lambda: _original(backbone.num_classes))


def _original(num_classes: int) -> Any:
    from torchvision.models import mobilenet_v2  # noqa: PLC0415 - two seconds that only this model takes

    return mobilenet_v2(weights=None, num_classes=num_classes)


models.register("mobilenetv2_imagenet", label="MobileNetV2 (ImageNet)")(ImagenetMobileNetV2())
