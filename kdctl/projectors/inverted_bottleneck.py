"""The inverted bottleneck: wider inside than at its ends, and linear at the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from torch import Tensor, nn

from kdctl.layers.conv import conv1x1, conv3x3, conv_bn_relu
from kdctl.protocols.backbone import Shape
from kdctl.protocols.projector import Projector, projectors


@dataclass(frozen=True, kw_only=True)
class InvertedBottleneckConfig:
    """Width inside."""

    expansion: Annotated[int, Ge(1), Le(64)] = 2
    """The inner convolutions have this many times C_teacher channels. 2 in SemCKD's code."""


@projectors.register("inverted_bottleneck", label="Inverted bottleneck")
class InvertedBottleneckProjector(Projector):
    """Conv 1x1 (C_s -> e * C_t), 3x3, both with batch norm and ReLU, then 1x1 (-> C_t) alone; no biases.

    What SemCKD (arXiv:2012.03236) brings each student stage to each teacher stage with. With
    m = e * C_t it has C_s * m + 9 * m^2 + m * C_t + 4 * m parameters; any real number can come out.
    """

    Config: ClassVar[type] = InvertedBottleneckConfig

    def __init__(self, config: InvertedBottleneckConfig, source: Shape, target: Shape) -> None:
        """Build for maps: `source` (C_s, H, W), `target` (C_t, H, W)."""
        super().__init__(config, source, target)
        inner = target[0] * config.expansion
        self.layers = nn.Sequential(
            conv_bn_relu(conv1x1(source[0], inner)),
            conv_bn_relu(conv3x3(inner, inner)),
            conv1x1(inner, target[0]),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C_t, H, W] for features [B, C_s, H, W]."""
        return self.layers(features)
