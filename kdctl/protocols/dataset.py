"""What a data set must offer: images with labels, in an order of their own.

They are arrays, which live on the device while a run trains, or are decoded when a batch needs them. Images
are put into a canonical order (by label, then by the SHA-256 of their pixels or of their file), so the same
data give the same runs however they lie on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le, Lt

from kdctl.recipe.component import Spec, component, option
from kdctl.registry import Registry
from kdctl.text import as_text

if TYPE_CHECKING:
    from torch import Tensor

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]
Interpolation = Literal["bilinear", "bicubic"]
NO_ROWS: Rows = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images with their classes."""

    images: Images
    """[N, H, W, 3], uint8."""
    labels: Labels
    """[N], int64."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_size(self) -> int:
        """Height and width of the images that a model sees."""
        return self.images.shape[1]

    def taken(self, rows: Rows) -> Split:
        """Return the images at `rows`."""
        return Split(images=self.images[rows], labels=self.labels[rows])


class ImageSource(Protocol):
    """Images of any size, decoded one at a time when they are asked for; worker processes ask."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> Tensor:
        """Return an image [3, H, W], uint8.

        Raises:
            OSError: its file cannot be read.
            ValueError: it is no image any more (`readers.pixels.UnreadableImageError`, with the file's name).
        """
        ...


@runtime_checkable
class PreparedSource(ImageSource, Protocol):
    """A source that stores something before its images are read again and again."""

    def prepare(self, rows: Iterable[int], meanwhile: Callable[[], None]) -> None:
        """Make the images at `rows` ready; what is ready already stays.

        Args:
            rows: of the images that will be read.
            meanwhile: to be called again and again; what it raises ends this.

        Raises:
            KdctlError: there is no room for it.
            OSError: files cannot be read or written.
            ValueError: a file is no image any more.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CentreCrop:
    """How an image becomes the input of a model where nothing is random."""

    resize: int
    """The shorter side is scaled to this, antialiased."""
    size: int
    """Height and width that are then cut from the middle."""
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True, kw_only=True)
class StreamedSplit:
    """Images that are decoded when they are needed, with their classes."""

    source: ImageSource
    rows: Rows
    """[N]: which image of the source stands where."""
    labels: Labels
    """[N], int64."""
    digests: npt.NDArray[np.uint8]
    """[N, 32]: the SHA-256 of each image's file."""
    evaluation: CentreCrop
    """How they are evaluated; its size is that of the training images, too."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_size(self) -> int:
        """Height and width of the images that a model sees."""
        return self.evaluation.size

    def taken(self, rows: Rows) -> StreamedSplit:
        """Return the images at `rows`."""
        return replace(self, rows=self.rows[rows], labels=self.labels[rows], digests=self.digests[rows])


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A whole data set."""

    train: Split | StreamedSplit
    test: Split | StreamedSplit
    val: Split | StreamedSplit | None = None
    """A validation split of its own; None: `data.val_fraction` may hold one out from the training set."""
    class_names: tuple[str, ...]
    """By label; bytes of a folder's name that are no text are spelled: `d\\xf8g`."""
    mean: tuple[float, float, float]
    """Per channel, of pixels scaled to [0, 1]: subtracted from the input."""
    std: tuple[float, float, float]
    """Per channel: what the input is divided by."""

    def __post_init__(self) -> None:
        """Spell names of classes so that files and databases can hold them."""
        object.__setattr__(self, "class_names", tuple(map(as_text, self.class_names)))

    @property
    def input_size(self) -> int:
        """Height and width of the images."""
        return self.train.input_size

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
    padding: Annotated[int, Ge(0), Le(1024)] = 4
    """Zero pixels on each side before a random crop of the augmentations `crop` and `crop-flip`."""
    batch_size: Annotated[int, Gt(1), Le(1_000_000)] = 64
    """Training images per step; the last, shorter batch of an epoch is kept."""
    mixup: Annotated[float, Ge(0), Le(1000)] = option(0.0, since="0.2.0")
    """Blend the images of a batch in pairs, and their labels: the parameter of the Beta distribution that the
    share of the first is drawn from, once a batch; 0: no mixup. arXiv:1710.09412."""
    cutmix: Annotated[float, Ge(0), Le(1000)] = option(0.0, since="0.2.0")
    """Paste a box of the other image of a pair: as `mixup`. With both, each batch has one of them, by chance.
    arXiv:1905.04899."""
    mix_probability: Annotated[float, Gt(0), Le(1)] = option(1.0, since="0.2.0")
    """How likely a batch has mixup or cutmix, where there is any."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = option(0.0, since="0.2.0")
    """Of the training labels: this share is spread over all classes evenly. arXiv:1512.00567."""
    repeats: Annotated[int, Ge(1), Le(1000)] = option(1, since="0.2.0")
    """How often an image that is drawn comes in an epoch, each time augmented anew, for only a part of the
    images comes then: repeated augmentation, arXiv:1901.09335."""


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


@runtime_checkable
class TestApart(Protocol):
    """A data set that can be read without its training images; others are read whole, and lose them."""

    @staticmethod
    def load_test(options: Any, root: Path) -> ImageData:
        """Return what `load` does, with no image in the training set.

        Raises:
            KdctlError: as `load`.
        """
        ...


def without_training_images(data: ImageData) -> ImageData:
    """Return data whose training set has the size of its images, and none of them."""
    return replace(data, train=data.train.taken(NO_ROWS))


def canonical_order(split: Split) -> Split:
    """Sort a split by label, then by the SHA-256 of each image's pixels."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in split.images]
    order = sorted(range(len(digests)), key=lambda row: (split.labels[row], digests[row]))
    return Split(images=np.ascontiguousarray(split.images[order]), labels=split.labels[order])


def fingerprint(data: ImageData) -> str:
    """Return the SHA-256 of all pixels or files' hashes, and of all labels, in the order they stand."""
    digest = hashlib.sha256()
    splits = (data.train, data.test) if data.val is None else (data.train, data.test, data.val)
    for split in splits:
        if isinstance(split, StreamedSplit):
            digest.update(f"files {len(split)}".encode())
            digest.update(np.ascontiguousarray(split.digests).tobytes())
            digest.update(split.labels.astype("<i8").tobytes())
            continue
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).tobytes())
        digest.update(split.labels.astype("<i8").tobytes())
    return digest.hexdigest()


datasets: Registry[type[Dataset]] = Registry("dataset", "kdctl.datasets", needs=("load",))
