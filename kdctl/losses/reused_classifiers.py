"""What methods ship that reuse the classifiers of several teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.protocols.maps import Size, pool_to

Mean = Literal["probabilities", "logits"]
"""Of what several classifiers say."""


class ProjectedHeads(nn.Module):
    """A student's map as several teachers' maps: through a projector each, or one for all."""

    def __init__(self, projectors: Sequence[nn.Module], sizes: Sequence[Size], widths: Sequence[int]) -> None:
        """`sizes`: of the maps before each projector. `widths`: channels of each teacher's map."""
        super().__init__()
        self.projectors = nn.ModuleList(projectors)
        self.sizes = tuple(sizes)
        self.widths = tuple(widths)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return a map [B, C_k, H, W] for each teacher, for features [B, C, H, W]."""
        projected = [
            project(pool_to(features, size))
            for project, size in zip(self.projectors, self.sizes, strict=True)
        ]
        return projected if len(projected) > 1 else list(projected[0].split(self.widths, dim=1))


class ReusedClassifiers(nn.Module):
    """A student's encoder, projectors, and for each projected map the rest of a teacher behind it."""

    def __init__(
        self, encoder: nn.Module, heads: ProjectedHeads, tails: Sequence[nn.Module], mean: Mean
    ) -> None:
        """`tails` read the maps of `heads`; `mean` says of what of theirs."""
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.tails = nn.ModuleList(tails)
        self.mean: Mean = mean

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of normalised images [B, 3, H, W]."""
        maps = self.heads(self.encoder(images))
        return mean_prediction([tail(each) for tail, each in zip(self.tails, maps, strict=True)], self.mean)


def mean_prediction(logits: Sequence[Tensor], mean: Mean) -> Tensor:
    """Return logits [B, K] that stand for the mean of several: of their probabilities, or of themselves."""
    stacked = torch.stack([one.float() for one in logits])
    if mean == "logits":
        return stacked.mean(dim=0)
    return torch.logsumexp(functional.log_softmax(stacked, dim=2), dim=0) - math.log(len(logits))
