"""The 1x1-DW3x3-1x1 projector: the bottleneck with a depthwise convolution inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from kdctl.layers.conv import conv1x1, conv_bn_relu, depthwise3x3
from kdctl.protocols.backbone import Shape
from kdctl.protocols.projector import Projector, projectors


@dataclass(frozen=True, kw_only=True)
class DepthwiseBottleneckConfig:
    """Width of the bottleneck."""

    reduction: Annotated[int, Ge(1)] = 2
    """r: the depthwise convolution has C_teacher / r channels. 2 in the paper's Table 5."""


@projectors.register("depthwise_bottleneck", aliases=("1x1-dw3x3-1x1",), label="1x1-DW3x3-1x1")
class DepthwiseBottleneckProjector(Projector):
    """Conv 1x1 (C_s -> C_t / r), depthwise 3x3, 1x1 (-> C_t), each without bias, with batch norm and ReLU.

    Chen et al., arXiv:2203.14001, Table 5. The middle is depthwise alone, no pointwise convolution
    follows it: so the paper's count comes out. With m = C_t / r it has
    C_s * m + 9 * m + m * C_t + 4 * m + 2 * C_t parameters.
    """

    Config: ClassVar[type] = DepthwiseBottleneckConfig

    def __init__(self, config: DepthwiseBottleneckConfig, source: Shape, target: Shape) -> None:
        """Build for maps: `source` (C_s, H, W), `target` (C_t, H, W)."""
        super().__init__(config, source, target)
        inner = max(target[0] // config.reduction, 1)
        self.layers = nn.Sequential(
            conv_bn_relu(conv1x1(source[0], inner)),
            conv_bn_relu(depthwise3x3(inner)),
            conv_bn_relu(conv1x1(inner, target[0])),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C_t, H, W] for features [B, C_s, H, W]."""
        return self.layers(features)
