"""Bringing feature maps to one spatial size."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kdctl.protocols.backbone import Shape


def pool_to(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map [B, C, H, W] down to `size`; one that is not larger stays as it is."""
    height, width = features.shape[-2:]
    target = (min(height, size[0]), min(width, size[1]))
    return features if target == (height, width) else functional.adaptive_avg_pool2d(features, target)


def shared_size(first: Shape, second: Shape) -> tuple[int, int]:
    """Return the smaller height and width of two maps of shape (C, H, W)."""
    return min(first[1], second[1]), min(first[2], second[2])
