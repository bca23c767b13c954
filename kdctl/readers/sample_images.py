"""A few drawn images in class folders, for whoever tries a recipe without having its data.

Four classes of small JPEGs: discs, squares, rings and crosses, of any colour, on any colour. They are read
as the photographs they stand for would be, from files, by the same processes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SAMPLE = "kdctl:sample"
"""The path, in a recipe, of these images."""

_VERSION = "sample-1"
"""Name of their folder; another one when other images are drawn."""

_PER_CLASS = {"train": 20, "val": 5}

Field = npt.NDArray[np.float64]


def sample_folder(cache: Path) -> Path:
    """Return a folder with `train` and `val`, drawn now if it is not there yet.

    Args:
        cache: folder that it is kept in.
    """
    folder = cache / _VERSION
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=cache, prefix=f".{_VERSION}-"))
        _draw_all(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
            if not folder.is_dir():
                raise
    return folder


def _draw_all(folder: Path) -> None:
    folder.chmod(0o755)  # temporary folders are closed to others
    random = np.random.Generator(np.random.PCG64(20))
    for split, count in _PER_CLASS.items():
        for name, shape in _SHAPES.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(_drawn(shape, random)).save(place / f"{number:02}.jpg", quality=90)


def _drawn(shape: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return an image [H, W, 3] of a shape somewhere in it, under some noise."""
    height, width = random.integers(72, 112, 2)
    down, across = np.mgrid[:height, :width].astype(np.float64)
    middle, radius = random.uniform(0.35, 0.65, 2) * (height, width), random.uniform(18, 30)
    inside = _covered(shape, (down - middle[0]) / radius, (across - middle[1]) / radius)
    colours = random.uniform(0, 255, (2, 3))
    if abs(colours[0] - colours[1]).max() < 96:  # else hard to tell apart
        colours[1] = (colours[0] + 128) % 256
    pixels = np.where(inside[..., None], colours[0], colours[1]) + random.normal(0, 8, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def _covered(shape: int, down: Field, across: Field) -> npt.NDArray[np.bool_]:
    """Return which points a shape of radius 1 around the origin covers."""
    distance = np.hypot(down, across)
    square = np.maximum(abs(down), abs(across)) < 0.85
    masks = (
        distance < 1,
        square,
        (distance < 1) & (distance > 0.6),
        square & (np.minimum(abs(down), abs(across)) < 0.25),
    )
    return masks[shape]


_SHAPES = {"disc": 0, "square": 1, "ring": 2, "cross": 3}
"""Names of the classes, and where `_covered` has them."""
