"""What a projector must offer: a map from a student's tap to the shape of a teacher's tap."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from kdctl.protocols.backbone import Shape
from kdctl.registry import NoOptions, Registry


class Projector(nn.Module):
    """Takes student features to the teacher's width; subclass it in `projectors/<name>.py`.

    Spatial sizes are matched by the method before (the larger map is pooled to the smaller);
    a projector changes channels.
    """

    Config: ClassVar[type] = NoOptions

    def __init__(self, config: Any, source: Shape, target: Shape) -> None:
        """Build for one sample's `source` shape (student) and `target` shape (teacher)."""
        super().__init__()
        self.config = config
        self.source = source
        self.target = target

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, C_target, ...] for features [B, C_source, ...]."""
        raise TypeError(f"{type(self).__name__} must define forward()")


projectors: Registry[type[Projector]] = Registry("projector", "kdctl.projectors", base=Projector)
