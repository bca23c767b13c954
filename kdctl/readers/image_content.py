"""The content of an image file turned into a tensor: fast for JPEG, and for all other formats by Pillow."""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from kdctl.readers.pixels import UnreadableImageError, read_image, upright

JPEG = b"\xff\xd8\xff"
"""How a JPEG begins, whatever its file is called."""

_RGB = 3
"""Torchvision's number for three channels, whatever the file has."""

_UPRIGHT = True
"""Torchvision turns images as their EXIF says."""


def decode_image(content: bytes, name: str) -> Tensor:
    """Return the pixels of an encoded image as [3, H, W], uint8, upright.

    Grey images get three equal channels, CMYK becomes RGB, and an image that its camera marked as turned
    (EXIF) is turned back.

    Args:
        content: of the file.
        name: of the file, for the error.

    Raises:
        UnreadableImageError: it is damaged, cut short, no image, or grey with more than 8 bits.
    """
    decode_jpeg = jpeg_decoder()
    if content[:3] != JPEG or decode_jpeg is None:
        return _decode_by_pillow(content, name)
    try:
        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), _RGB, _UPRIGHT)
    except RuntimeError as error:
        why = str(error).partition("\n")[0].rpartition(", ")[2]
        raise UnreadableImageError(f"{name} ({why})") from error


@functools.cache
def jpeg_decoder() -> Callable[..., Tensor] | None:
    """Return torchvision's decoder, which is a third faster than Pillow and gives the same pixels.

    None where there is none: torchvision 0.29 announces that it will go, and warns whoever calls it by its
    public name.
    """
    try:
        importlib.import_module("torchvision.io")  # brings the operator
    except ImportError:
        return None
    return getattr(torch.ops.image, "decode_jpeg", None)


def check_image(content: bytes, name: str) -> None:
    """Decode an image to see that it can be, unless its header says that it is enormous.

    Call it where Pillow's warning of enormous images is an error: `refusing_enormous_images`.

    Raises:
        UnreadableImageError: as `decode_image`, or it has more than about 89 million pixels.
    """
    if not content:
        raise UnreadableImageError(f"{name} (the file is empty)")
    try:
        with Image.open(io.BytesIO(content)):
            pass
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{name} (enormous: {error})") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"{name} (no image)") from error
    except Exception as error:
        raise UnreadableImageError(f"{name} ({error})") from error
    decode_image(content, name)


def _decode_by_pillow(content: bytes, name: str) -> Tensor:
    try:
        image = upright(read_image(io.BytesIO(content)))
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{name} ({error})") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
