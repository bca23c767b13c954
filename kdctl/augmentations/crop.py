"""Random crops of zero-padded images."""

from __future__ import annotations

from kdctl.protocols.augmentation import ShiftAndFlip, augmentations


@augmentations.register("crop")
class Crop(ShiftAndFlip):
    """Random crops of the image's size after `data.padding` pixels of zeros on each side."""

    flips = False
