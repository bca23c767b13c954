"""Handwritten digits that come with scikit-learn: real data without a download.

1,797 scans of 8x8 pixels with 17 levels of grey: the test half of "Optical Recognition of
Handwritten Digits" (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Le
from PIL import Image

from kdctl.protocols.dataset import (
    Dataset,
    DatasetOptions,
    ImageData,
    Images,
    Split,
    canonical_order,
    datasets,
)
from kdctl.readers.pixels import channel_statistics, resized
from kdctl.recipe.component import Spec, component

TEST_PER_CLASS = 50
"""Test images of each digit; the other 124 to 133 are for training."""

_TABLE = "data/digits.csv.gz"
"""Within `sklearn.datasets`."""

_DARKEST = 16
"""Highest grey level of the scans."""


@datasets.register("digits", label="Digits")
class Digits(Dataset):
    """Handwritten digits from scikit-learn: 10 classes, 1,297 for training and 500 for the test."""

    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetOptions):
        """Options of the digits; a mirrored digit is none, so by default they are only shifted."""

        size: Annotated[int, Ge(8), Le(256)] = 16
        """Height and width in pixels: the 8x8 scans are scaled up, bilinear."""
        augmentation: Spec = component("augmentation", "crop", was_a_name=True)
        """Of training images: `kdctl list augmentations` shows which there are."""
        padding: Annotated[int, Ge(0), Le(256)] = 2
        """Zero pixels on each side before a random crop."""

    published_fingerprint: ClassVar[str | None] = None

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """Return the scans at `options.size`; `root` is not needed.

        The split is fixed: of each digit, the first `TEST_PER_CLASS` by the SHA-256 of their 8x8
        pixels are the test set, at every size.
        """
        scans = canonical_order(_scans())
        place_in_class = np.arange(len(scans)) - np.searchsorted(scans.labels, scans.labels)
        is_test = place_in_class < TEST_PER_CLASS
        train = _scaled(scans, ~is_test, options.size)
        mean, std = channel_statistics(train.images)
        return ImageData(
            train=train,
            test=_scaled(scans, is_test, options.size),
            class_names=tuple("0123456789"),
            mean=mean,
            std=std,
        )


def _scans() -> Split:
    pixels, labels = _bundled()
    grey = np.rint(pixels.reshape(-1, 8, 8) * (255 / _DARKEST)).astype(np.uint8)
    return Split(images=np.repeat(grey[..., None], 3, axis=-1), labels=labels.astype(np.int64))


def _bundled() -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Return pixels [N, 64] and labels [N] as scikit-learn brings them.

    Its table is read where it lies: importing scikit-learn takes a second, in every process that trains
    or plans. A version that keeps the table elsewhere is asked for it.
    """
    package = importlib.util.find_spec("sklearn")
    table = (
        Path(package.origin).with_name("datasets") / _TABLE if package and package.origin else Path(_TABLE)
    )
    if table.is_file():
        rows = np.loadtxt(table, delimiter=",")
        return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits  # noqa: PLC0415

    bundle: Any = load_digits()
    return bundle.data, bundle.target


def _scaled(scans: Split, rows: npt.NDArray[np.bool_], size: int) -> Split:
    images: Images = np.stack(
        [np.asarray(resized(Image.fromarray(scan), size)) for scan in scans.images[rows]]
    )
    return canonical_order(Split(images=images, labels=scans.labels[rows]))
