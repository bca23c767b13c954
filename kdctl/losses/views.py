"""Random views of images on the device, through which gradients pass; every operation is deterministic."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kdctl.losses.vectors import full_precision

Augmentation = Literal["crop-flip", "crop", "none"]
"""Random crop after zero padding, and horizontal flip: as of training images."""


def shifted_views(images: Tensor, augmentation: Augmentation, padding: int, rng: torch.Generator) -> Tensor:
    """Return random crops of zero-padded images [B, 3, H, W], half of them mirrored with 'crop-flip'."""
    if augmentation == "none":
        return images
    count, size, device = len(images), images.shape[-1], images.device
    offsets = torch.randint(-padding, padding + 1, (2, count, 1), generator=rng, device=device)
    places = torch.arange(size, device=device) + offsets.float()
    columns = _flipped(places[1], rng) if augmentation == "crop-flip" else places[1]
    return _resampled(images, places[0], columns)


def magnified_views(
    images: Tensor, augmentation: Augmentation, smallest_share: float, rng: torch.Generator
) -> Tensor:
    """Return random squares of images [B, 3, H, W], scaled up to their size, bilinear.

    Each square has between `smallest_share` and all of the area; half of them are mirrored with 'crop-flip'.
    """
    if augmentation == "none":
        return images
    count, size, device = len(images), images.shape[-1], images.device
    shares, *starts = torch.rand(3, count, 1, generator=rng, device=device)
    sides = (smallest_share + (1 - smallest_share) * shares).sqrt()
    centres = torch.arange(size, device=device) + 0.5
    rows, columns = (
        ((1 - sides) * size * start + centres * sides - 0.5).clamp(0, size - 1) for start in starts
    )
    if augmentation == "crop-flip":
        columns = _flipped(columns, rng)
    return _resampled(images, rows, columns)


def _flipped(columns: Tensor, rng: torch.Generator) -> Tensor:
    """Return positions [B, W], those of a random half in reverse."""
    mirrored = torch.rand(len(columns), 1, generator=rng, device=columns.device) < 0.5
    return torch.where(mirrored, columns.flip(1), columns)


def _resampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images [B, 3, H, W] read at rows [B, H] and columns [B, W]: bilinear, zero outside.

    As two matrix products: `grid_sample` has no deterministic gradient on a GPU.
    """
    with full_precision(images):
        down, across = (_weights(places) for places in (rows, columns))
        return (down[:, None] @ images.float()) @ across[:, None].mT


def _weights(places: Tensor) -> Tensor:
    """Return what each pixel counts at places [B, N]: [B, N, N], linear in the distance, 0 beyond 1."""
    pixels = torch.arange(places.shape[1], device=places.device)
    return (1 - (places[:, :, None] - pixels).abs()).clamp(min=0)
