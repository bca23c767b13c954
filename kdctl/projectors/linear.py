"""The linear projector: any real number can come out."""

from __future__ import annotations

from torch import Tensor, nn

from kdctl.protocols.backbone import Shape
from kdctl.protocols.projector import Projector, projectors
from kdctl.registry import NoOptions


@projectors.register("linear", label="Linear")
class LinearProjector(Projector):
    """One linear layer with bias (a 1x1 convolution for maps), without norm or activation.

    Its C_s * C_t + C_t parameters reach teacher features of either sign, as stages that end
    linearly have them; projectors that end with a ReLU do not.
    """

    def __init__(self, config: NoOptions, source: Shape, target: Shape) -> None:
        """Build for maps (C, H, W), or for vectors (C,)."""
        super().__init__(config, source, target)
        of_maps = len(source) == 3
        self.layer = nn.Conv2d(source[0], target[0], 1) if of_maps else nn.Linear(source[0], target[0])

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, C_t, H, W] for features [B, C_s, H, W], [B, C_t] for [B, C_s]."""
        return self.layer(features)
