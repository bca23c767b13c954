"""The 1x1-1x1 projector: a bottleneck that never looks sideways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from kdctl.layers.conv import conv1x1, conv_bn_relu
from kdctl.protocols.backbone import Shape
from kdctl.protocols.projector import Projector, projectors


@dataclass(frozen=True, kw_only=True)
class DoublePointwiseConfig:
    """Width between the convolutions."""

    reduction: Annotated[int, Ge(1)] = 2
    """r: there are C_teacher / r channels in between. 2 in the paper's Table 5."""


@projectors.register("double_pointwise", aliases=("1x1-1x1",), label="1x1-1x1")
class DoublePointwiseProjector(Projector):
    """Conv 1x1 (C_s -> C_t / r), 1x1 (-> C_t), each without bias, with batch norm and ReLU.

    Chen et al., arXiv:2203.14001, Table 5. With m = C_t / r it has
    C_s * m + m * C_t + 2 * m + 2 * C_t parameters.
    """

    Config: ClassVar[type] = DoublePointwiseConfig

    def __init__(self, config: DoublePointwiseConfig, source: Shape, target: Shape) -> None:
        """Build for maps: `source` (C_s, H, W), `target` (C_t, H, W)."""
        super().__init__(config, source, target)
        inner = max(target[0] // config.reduction, 1)
        self.layers = nn.Sequential(
            conv_bn_relu(conv1x1(source[0], inner)),
            conv_bn_relu(conv1x1(inner, target[0])),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C_t, H, W] for features [B, C_s, H, W]."""
        return self.layers(features)
