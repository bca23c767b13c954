"""The perceptron: 1x1 convolutions with ReLUs between them and a linear end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from torch import Tensor, nn

from kdctl.layers.conv import conv1x1
from kdctl.protocols.backbone import Shape
from kdctl.protocols.projector import Projector, projectors


@dataclass(frozen=True, kw_only=True)
class PerceptronConfig:
    """Depth of the perceptron."""

    num_layers: Annotated[int, Ge(1), Le(64)] = 3
    """Convolutions, all but the first C_teacher wide. 3 in public code of VID."""


@projectors.register("perceptron", aliases=("mlp",), label="MLP")
class PerceptronProjector(Projector):
    """Conv 1x1 (C_s -> C_t), then ReLU and conv 1x1 (C_t -> C_t) as often as asked; no bias, no norm.

    What VID predicts the teacher's features with (Ahn et al., arXiv:1904.05835): the same function at
    every position, and any real number can come out.
    """

    Config: ClassVar[type] = PerceptronConfig

    def __init__(self, config: PerceptronConfig, source: Shape, target: Shape) -> None:
        """Build for maps: `source` (C_s, H, W), `target` (C_t, H, W)."""
        super().__init__(config, source, target)
        layers: list[nn.Module] = [conv1x1(source[0], target[0])]
        for _ in range(config.num_layers - 1):
            layers += [nn.ReLU(inplace=True), conv1x1(target[0], target[0])]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C_t, H, W] for features [B, C_s, H, W]."""
        return self.layers(features)
