"""The 1x1 projector: one convolution."""

from __future__ import annotations

from torch import Tensor

from kdctl.layers.conv import conv1x1, conv_bn_relu
from kdctl.protocols.backbone import Shape
from kdctl.protocols.projector import Projector, projectors
from kdctl.registry import NoOptions


@projectors.register("pointwise", aliases=("1x1",), label="1x1")
class PointwiseProjector(Projector):
    """Conv 1x1 (C_s -> C_t) without bias, batch norm, ReLU.

    Chen et al., arXiv:2203.14001, Table 5. It has C_s * C_t + 2 * C_t parameters.
    """

    def __init__(self, config: NoOptions, source: Shape, target: Shape) -> None:
        """Build for maps: `source` (C_s, H, W), `target` (C_t, H, W)."""
        super().__init__(config, source, target)
        self.layers = conv_bn_relu(conv1x1(source[0], target[0]))

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C_t, H, W] for features [B, C_s, H, W]."""
        return self.layers(features)
