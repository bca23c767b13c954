"""Random crops of zero-padded images, half of them mirrored: what papers do with CIFAR."""

from __future__ import annotations

from kdctl.protocols.augmentation import ShiftAndFlip, augmentations


@augmentations.register("crop-flip")
class CropAndFlip(ShiftAndFlip):
    """Random crops as `crop` makes them, and half of the images mirrored left to right."""
