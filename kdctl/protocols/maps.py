"""Feature maps at smaller spatial sizes, and how a tap is named whose map is asked for at one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]
"""Height and width of a map."""

_AT = "@"
"""Between a tap and the size that its map is averaged to: 'stage3@2x2'."""


def pool_to(features: Tensor, size: Size) -> Tensor:
    """Average-pool a map [B, C, H, W] down to `size`; one that is not larger stays as it is.

    The result is that of torch's adaptive average pooling, whose gradient on a GPU is not the same
    bit for bit every time; this one's is.
    """
    height, width = features.shape[-2:]
    target = shared_size((height, width), size)
    if target == (height, width):
        return features
    if height % target[0] == 0 and width % target[1] == 0:
        return functional.avg_pool2d(features, (height // target[0], width // target[1]))
    return _average_windows(_average_windows(features, dim=2, count=target[0]), dim=3, count=target[1])


def shared_size(first: tuple[int, ...], second: tuple[int, ...]) -> Size:
    """Return the smaller height and width of two maps, each of shape (C, H, W) or size (H, W)."""
    return min(first[-2], second[-2]), min(first[-1], second[-1])


def name_at(tap: str, size: Size) -> str:
    """Return the name under which a model gives a tap's map averaged to `size`: 'stage3@2x2'."""
    return f"{tap}{_AT}{size[0]}x{size[1]}"


def tap_and_size(name: str) -> tuple[str, Size | None]:
    """Return the tap that a name stands for, and the size its map is averaged to; None: as it is."""
    tap, _, size = name.partition(_AT)
    if not size:
        return tap, None
    height, _, width = size.partition("x")
    return tap, (int(height), int(width))


def _average_windows(features: Tensor, *, dim: int, count: int) -> Tensor:
    """Average `count` windows of nearly equal length along `dim`; they overlap where they must."""
    length = features.shape[dim]
    windows = (
        features.narrow(dim, first := number * length // count, -(-(number + 1) * length // count) - first)
        for number in range(count)
    )
    return torch.stack([window.mean(dim=dim) for window in windows], dim=dim)
