"""Single images: any common file to RGB pixels, resizing, and the statistics of many of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from kdctl.protocols.dataset import Images

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .gif .jfif .jpeg .jpg .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905 - readable
)
"""Files with another suffix are no images to us."""

Triple = tuple[float, float, float]
"""One number per channel: red, green, blue."""

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
"""Of pixels scaled to [0, 1]: the constants that public ImageNet code shares."""

IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
"""Per channel."""

_CHUNK = 4096
"""Images whose squares are held in memory at a time."""


class UnreadableImageError(ValueError):
    """A file that cannot be turned into 8-bit RGB pixels; the message says why."""


def read_image(path: Path | BinaryIO) -> Image.Image:
    """Decode an image file to RGB.

    Grey images get three equal channels, palettes are looked up, transparency is dropped, and of
    an animation the first frame is taken.

    Raises:
        UnreadableImageError: the file is damaged, is no image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            return _to_rgb(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadableImageError(str(error)) from error


def resized(image: Image.Image, size: int) -> Image.Image:
    """Scale to `size` x `size` pixels, whatever the shape was; an image of that size stays as it is.

    Bilinear over 8-bit values, averaging when it shrinks; never beyond the range of its neighbours.
    """
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def channel_statistics(images: Images) -> tuple[Triple, Triple]:
    """Return mean and standard deviation per channel of pixels scaled to [0, 1].

    The sums are exact integers, so the result does not depend on any order. A channel that never
    varies gets the deviation of one grey level, since inputs are divided by it.

    Args:
        images: [N, H, W, 3], uint8, N > 0.
    """
    sums = np.zeros(3, dtype=np.uint64)
    squares = np.zeros(3, dtype=np.uint64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        sums += chunk.sum(axis=(0, 1, 2), dtype=np.uint64)
        squares += np.square(chunk, dtype=np.uint16).sum(axis=(0, 1, 2), dtype=np.uint64)
    count = images.size // 3
    mean = [int(total) / count for total in sums]
    variance = [
        max(int(square) * count - int(total) ** 2, 0) / count**2
        for total, square in zip(sums, squares, strict=True)
    ]
    return _scaled(mean), _scaled([max(value**0.5, 1.0) for value in variance])


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow would clip these to 255 and leave a white rectangle without a word.
        raise UnreadableImageError("it has more than 8 bits a channel")
    if image.mode == "P":
        # Straight to RGB, Pillow warns about every palette with transparency.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _scaled(levels: list[float]) -> Triple:
    red, green, blue = (level / 255 for level in levels)
    return red, green, blue
