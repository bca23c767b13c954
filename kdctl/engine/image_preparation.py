"""What worker processes make of images: augmented ones for training, cut ones for evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from kdctl.engine.seeds import derive
from kdctl.protocols.augmentation import Augmentation
from kdctl.protocols.dataset import CentreCrop, ImageSource, Split, StreamedSplit
from kdctl.readers.array_images import ArrayImages


class AugmentedImages:
    """Makes training images."""

    def __init__(self, split: Split | StreamedSplit, augmentation: Augmentation, size: int) -> None:
        streamed = isinstance(split, StreamedSplit)
        self._source: ImageSource = split.source if streamed else ArrayImages(split)
        self._rows = torch.from_numpy(split.rows) if streamed else torch.arange(len(split))
        self._augmentation, self._size = augmentation, size
        interpolation = split.evaluation.interpolation if streamed else "bilinear"
        self._frame = _centre_crop(CentreCrop(resize=size, size=size, interpolation=interpolation))

    def __call__(self, place: int, repeat: int, stream: int) -> Tensor:
        """Return the image at a place of the split, changed as the random stream says: [3, S, S], uint8."""
        image = self._source.read(int(self._rows[place]))
        if self._augmentation.views is not None:  # it takes images of the right size only
            image = self._frame(image)
        torch.default_generator.manual_seed(derive(stream, place, repeat))
        return self._augmentation(image, self._size)


class CroppedImages:
    """Makes images of an evaluation."""

    def __init__(self, split: StreamedSplit) -> None:
        self._split, self._frame = split, _centre_crop(split.evaluation)

    def __call__(self, place: int, repeat: int, stream: int) -> Tensor:
        """Return the middle of the image at a place of the split: [3, S, S], uint8."""
        return self._frame(self._split.source.read(int(self._split.rows[place])))


def _centre_crop(crop: CentreCrop) -> Callable[[Tensor], Tensor]:
    # torchvision takes two seconds to import, which runs on images in memory need not spend.
    from kdctl.readers.framing import centre_crop  # noqa: PLC0415

    return functools.partial(centre_crop, crop=crop)
