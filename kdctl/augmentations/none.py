"""Training images as they are."""

from __future__ import annotations

from kdctl.protocols.augmentation import ShiftAndFlip, augmentations


@augmentations.register("none")
class Unchanged(ShiftAndFlip):
    """Training images as they are: only their order is random."""

    shifts = False
    flips = False
