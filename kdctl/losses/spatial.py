"""Bringing feature maps to one spatial size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdctl.protocols.backbone import Shape


def pool_to(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map [B, C, H, W] down to `size`; one that is not larger stays as it is.

    The result is that of torch's adaptive average pooling, whose gradient on a GPU is not the same
    bit for bit every time; this one's is.
    """
    height, width = features.shape[-2:]
    target = (min(height, size[0]), min(width, size[1]))
    if target == (height, width):
        return features
    if height % target[0] == 0 and width % target[1] == 0:
        return functional.avg_pool2d(features, (height // target[0], width // target[1]))
    return _average_windows(_average_windows(features, dim=2, count=target[0]), dim=3, count=target[1])


def shared_size(first: Shape, second: Shape) -> tuple[int, int]:
    """Return the smaller height and width of two maps of shape (C, H, W)."""
    return min(first[1], second[1]), min(first[2], second[2])


def _average_windows(features: Tensor, *, dim: int, count: int) -> Tensor:
    """Average `count` windows of nearly equal length along `dim`; they overlap where they must."""
    length = features.shape[dim]
    windows = (
        features.narrow(dim, first := number * length // count, -(-(number + 1) * length // count) - first)
        for number in range(count)
    )
    return torch.stack([window.mean(dim=dim) for window in windows], dim=dim)
