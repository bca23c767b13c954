"""Images in memory as a source of single ones, at another size than they have."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdctl.protocols.dataset import CentreCrop, ImageData, Split, StreamedSplit
from kdctl.readers.pixels import Triple

_CROP_SHARE = 256 / 224
"""Of ImageNet's evaluations: how much longer the scaled side is than what is cut out."""


class ArrayImages:
    """Images that are in memory, one at a time."""

    def __init__(self, split: Split) -> None:
        self._images = torch.from_numpy(split.images)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, row: int) -> Tensor:
        """Return an image [3, H, W], uint8."""
        return self._images[row].permute(2, 0, 1)


def enlarged(data: ImageData, size: int, mean: Triple, std: Triple) -> ImageData:
    """Return the same images for models of larger ones: worker processes scale what a batch needs.

    Args:
        data: in memory.
        size: height and width of a model's input. In an evaluation images are scaled to 8/7 of it and cut.
        mean: per channel, of the models' input.
        std: per channel.
    """
    evaluation = CentreCrop(resize=round(size * _CROP_SHARE), size=size, interpolation="bicubic")

    def streamed(split: Split | StreamedSplit) -> StreamedSplit:
        if isinstance(split, StreamedSplit):
            raise TypeError("only images in memory are enlarged")
        digests = b"".join(hashlib.sha256(image.tobytes()).digest() for image in split.images)
        return StreamedSplit(
            source=ArrayImages(split),
            rows=np.arange(len(split)),
            labels=split.labels,
            digests=np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32),
            evaluation=evaluation,
        )

    return replace(data, train=streamed(data.train), test=streamed(data.test), mean=mean, std=std)
