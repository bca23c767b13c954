"""What an augmentation must offer: a random change of one training image.

An augmentation that knows only shifts and mirror images has a finite number of results, its views. Images
that lie on the device are then augmented there, a whole batch at once, and the teachers' outputs on each
view can be kept. Every other augmentation works on one image at a time, in worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions, Registry

if TYPE_CHECKING:
    from kdctl.protocols.dataset import DatasetOptions


@dataclass(frozen=True, kw_only=True)
class Views:
    """The results of an augmentation that only shifts images and mirrors them."""

    padding: int
    """An image is shifted by at most so many pixels, up or down and left or right; zeros come in."""
    flips: bool
    """Whether half of the images are mirrored left to right."""


class Augmentation:
    """Changes training images at random; subclass it in `augmentations/<name>.py`.

    It is made once, and copied into the worker processes. Its random numbers come from torch's default
    generator, which is seeded for each image from (seed of the run, epoch, sample) before the call. So an
    image does not depend on the number of workers, nor on the images before it.
    """

    Config: ClassVar[type] = NoOptions
    views: Views | None = None
    """Its results, where they are finite in number; None: it is called for each image."""

    def __init__(self, config: Any, data: DatasetOptions) -> None:
        """Keep the options.

        Args:
            config: its own.
            data: those of the data set.
        """
        self.config = config
        self.data = data

    def __call__(self, image: Tensor, size: int) -> Tensor:
        """Return a changed image [3, size, size], uint8.

        Args:
            image: [3, H, W], uint8, of any height and width.
            size: height and width of the result.
        """
        raise TypeError(f"{type(self).__name__} must define __call__()")


class ShiftAndFlip(Augmentation):
    """Shifts by at most `data.padding` pixels, and mirrors half of the images."""

    shifts: ClassVar[bool] = True
    flips: ClassVar[bool] = True

    def __init__(self, config: Any, data: DatasetOptions) -> None:
        super().__init__(config, data)
        self.views = Views(padding=data.padding if self.shifts else 0, flips=self.flips)

    def __call__(self, image: Tensor, size: int) -> Tensor:
        """Return a random view of an image [3, size, size] that was scaled before."""
        assert self.views is not None
        padding = self.views.padding
        top, left = torch.randint(0, 2 * padding + 1, (2,)).tolist()
        padded = functional.pad(image, (padding, padding, padding, padding))
        cropped = padded[:, top : top + size, left : left + size]
        return cropped.flip(2) if self.views.flips and torch.rand(()) < 0.5 else cropped


augmentations: Registry[type[Augmentation]] = Registry(
    "augmentation", "kdctl.augmentations", base=Augmentation
)


def build_augmentation(data: DatasetOptions) -> Augmentation:
    """Return the augmentation that the options of a data set name.

    A recipe's options hold its spec; options that were made without a recipe hold just a name.
    """
    chosen: Any = data.augmentation
    entry = augmentations.get(chosen.name if isinstance(chosen, Spec) else chosen)
    return entry.item(chosen.options if isinstance(chosen, Spec) else entry.config(), data)
