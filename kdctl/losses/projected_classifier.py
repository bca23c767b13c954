"""What methods ship whose classifier reads projected features."""

from __future__ import annotations

from torch import Tensor, nn

from kdctl.protocols.maps import pool_to


class ProjectedClassifier(nn.Module):
    """A student's encoder, a projector, and a classifier that is not the student's own."""

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, classifier: nn.Module, size: tuple[int, int]
    ) -> None:
        """`size` is the (height, width) that student features are pooled to before the projector."""
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.classifier = classifier
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of normalised images [B, 3, H, W]."""
        return self.classifier(self.projector(pool_to(self.encoder(images), self.size)))
