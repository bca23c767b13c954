"""Single images: any common file to RGB pixels, resizing, and the statistics of many of them."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kdctl.files import open_file
from kdctl.protocols.dataset import Images

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .gif .jfif .jpeg .jpg .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905 - readable
)
"""Files with another suffix are no images to us."""

UNREAD_SUFFIXES = frozenset(
    ".arw .cr2 .dds .dib .dng .exr .heic .heif .ico .j2k .jp2 .jpe .jxl .nef .pbm .pcx .psd .svg".split()  # noqa: SIM905 - readable
)
"""Of pictures that are not read: whoever has some among the images is told."""

Triple = tuple[float, float, float]
"""One number per channel: red, green, blue."""

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
"""Of pixels scaled to [0, 1]: the constants that public ImageNet code shares."""

IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
"""Per channel."""

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, RuntimeError, struct.error)
"""What Pillow raises for files that are not what they seem."""

_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
"""How a PostScript file begins, whatever it is called: a program, which Pillow would let Ghostscript run."""

_XMP = ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp")
"""What Pillow calls Adobe's words on an image, by format."""

_CHUNK = 4096
"""Images whose squares are held in memory at a time."""


class UnreadableImageError(ValueError):
    """A file that cannot be turned into 8-bit RGB pixels; the message says why."""


def read_image(path: Path | BinaryIO) -> Image.Image:
    """Decode an image file to RGB.

    Grey images get three equal channels, palettes are looked up, colours of 16 bits keep the upper 8,
    transparency is dropped, and of an animation the first frame is taken.

    Raises:
        UnreadableImageError: the file is damaged, is no image, or is grey with more than 8 bits.
    """
    try:
        with contextlib.ExitStack() as stack:
            # What Pillow opens itself it maps into memory, and a grey TIFF marked as turned comes out wrong.
            file = stack.enter_context(open_file(path)) if isinstance(path, Path) else path
            if file.read(4) in _POSTSCRIPT:
                raise UnreadableImageError("it is PostScript, a program and no image")
            file.seek(0)
            return _to_rgb(stack.enter_context(Image.open(file)))
    except UnidentifiedImageError as error:  # its words name an object of Python, not the file
        raise UnreadableImageError("no image") from error
    except (*_DAMAGED, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(str(error)) from error


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF says, if that can be read.

    Pillow would also turn what only Adobe's XMP says, and torchvision, which decodes JPEG files, would not.
    """
    for name in _XMP:
        image.info.pop(name, None)
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED:
        return image


@contextlib.contextmanager
def refusing_enormous_images() -> Generator[None]:
    """Turn Pillow's warning of enormous images into an error, in all threads of the process.

    What it warns of otherwise, such as EXIF that is cut short, alters no pixel and is left unsaid.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextlib.contextmanager
def decoding_threads() -> Generator[ThreadPoolExecutor]:
    """Give a thread for each core: Pillow and torchvision decode without the interpreter's lock.

    What waits is dropped where the work ends early: of a million images that Ctrl-C was to stop, say.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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
