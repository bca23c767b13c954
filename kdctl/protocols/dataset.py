"""What a data set must offer: its images and labels as arrays, in an order of their own.

Images are put into a canonical order (by label, then by the SHA-256 of their pixels), so the same
data give the same runs however they lie on disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Lt

from kdctl.recipe.component import Spec, component
from kdctl.registry import Registry

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images with their classes."""

    images: Images
    """[N, H, W, 3], uint8."""
    labels: Labels
    """[N], int64."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A whole data set in memory."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    """Per channel, of pixels scaled to [0, 1]: subtracted from the input."""
    std: tuple[float, float, float]
    """Per channel: what the input is divided by."""

    @property
    def input_size(self) -> int:
        """Height and width of the images."""
        return self.train.images.shape[1]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


@dataclass(frozen=True, kw_only=True)
class BalancedForm:
    """What is known of a data set without reading it, where all classes have the same number of images."""

    num_classes: int
    input_size: int
    """Height and width of the images."""
    train_per_class: int
    test_per_class: int


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """The options every data set has; a data set's `Config` adds its own."""

    num_classes: Annotated[int, Gt(1)] | None = None
    """Keep only the first so many classes (alphabetical); None: all."""
    samples_per_class: Annotated[int, Gt(0)] | None = None
    """Keep only so many training images of each class (the first in canonical order); None: all."""
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the training set that is held out for validation, stratified by class."""
    split_seed: Annotated[int, Ge(0)] = 0
    """Which images are held out; apart from the run's seed, so that replicates share the split."""
    augmentation: Spec = component("augmentation", "crop-flip", was_a_name=True)
    """Of training images: `kdctl list augmentations` shows which there are."""
    padding: Annotated[int, Ge(0)] = 4
    """Zero pixels on each side before a random crop of the augmentations `crop` and `crop-flip`."""
    batch_size: Annotated[int, Gt(1)] = 64
    """Training images per step; the last, shorter batch of an epoch is kept."""


class Dataset(Protocol):
    """A source of images; subclass or imitate it in `datasets/<name>.py`."""

    Config: ClassVar[type[DatasetOptions]]
    published_fingerprint: ClassVar[str | None]
    """Fingerprint of a data set that everybody has alike; None: it is computed from the files."""
    published_form: ClassVar[BalancedForm | None] = None
    """How many images such a data set has, so that a dry run need not read it; None: it is read."""

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """Read the data set, with all classes and samples, from below `root`.

        Raises:
            KdctlError: data that are missing (where it looked, what to do) or corrupt.
        """
        ...


def canonical_order(split: Split) -> Split:
    """Sort a split by label, then by the SHA-256 of each image's pixels."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in split.images]
    order = sorted(range(len(digests)), key=lambda row: (split.labels[row], digests[row]))
    return Split(images=np.ascontiguousarray(split.images[order]), labels=split.labels[order])


def fingerprint(data: ImageData) -> str:
    """Return the SHA-256 of all pixels and labels of both splits, in the order they stand."""
    digest = hashlib.sha256()
    for split in (data.train, data.test):
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).tobytes())
        digest.update(split.labels.astype("<i8").tobytes())
    return digest.hexdigest()


datasets: Registry[type[Dataset]] = Registry("dataset", "kdctl.datasets")
