"""Pictures of the images that a method makes: a grid for each stage of a run, as a PNG file in its folder."""

from __future__ import annotations

import contextlib
import io
import math
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kdctl.machine_errors import unwritable

PICTURES = "invented.epoch-*.png"
"""File names of a run's pictures; in the order of names they are in the order of epochs."""

_COLUMNS = 8
_GAP = 2
"""White pixels between images."""
_SMALLEST = 48
"""Height and width in pixels of an image in a grid; smaller ones are scaled up by a whole number."""
_SHARES = (0.25, 0.5, 0.75, 1.0)


def picture_epochs(num_epochs: int) -> set[int]:
    """Return after which epochs (counted from 1) pictures are taken: the first, and the ends of quarters."""
    return {1, *(math.ceil(share * num_epochs) for share in _SHARES)}


def picture_name(epoch: int) -> str:
    """Return the file name of the picture after an epoch."""
    return PICTURES.replace("*", f"{epoch:04}")


def write_grid(path: Path, pixels: Tensor) -> None:
    """Write images [N, H, W, 3], uint8, as one PNG, eight in a row, whole or not at all.

    Raises:
        MachineError: there is no room, or no permission.
    """
    buffer = io.BytesIO()
    Image.fromarray(_grid(pixels).numpy()).save(buffer, format="PNG", optimize=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def _grid(pixels: Tensor) -> Tensor:
    """Return one picture [rows, columns, 3] of images [N, H, W, 3]."""
    factor = max(1, _SMALLEST // pixels.shape[1])
    large = pixels.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    count, height, width, _ = large.shape
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    canvas = torch.full(
        (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, dtype=torch.uint8
    )
    for place, image in enumerate(large):
        top, left = place // columns * (height + _GAP), place % columns * (width + _GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas
