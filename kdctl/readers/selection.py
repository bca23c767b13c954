"""What a recipe takes of a data set: some of its classes, some of its images, a part held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import BalancedForm, DatasetOptions, ImageData, Rows, Split, StreamedSplit
from kdctl.readers.pixels import Triple


@dataclass(frozen=True, kw_only=True)
class SelectedData:
    """The images that a run sees."""

    train: Split | StreamedSplit
    val: Split | StreamedSplit | None
    """Held out from the training set, or the data set's own; None when there is none."""
    test: Split | StreamedSplit
    class_names: tuple[str, ...]
    mean: Triple
    """Per channel, of pixels scaled to [0, 1]."""
    std: Triple
    """Per channel."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


class Counts(NamedTuple):
    """How many images a run sees, and of what size."""

    num_train: int
    num_val: int
    num_test: int
    num_classes: int
    input_size: int
    """Height and width of the images."""


def counts_of(data: SelectedData) -> Counts:
    """Count what `select` returned."""
    return Counts(
        num_train=len(data.train),
        num_val=len(data.val) if data.val else 0,
        num_test=len(data.test),
        num_classes=data.num_classes,
        input_size=data.train.input_size,
    )


def expected_counts(form: BalancedForm, options: DatasetOptions) -> Counts:
    """Return what `select` would leave of data of this form, without having them.

    Raises:
        KdctlError: as `select`.
    """
    num_classes = _checked_num_classes(form.num_classes, options)
    kept = min(options.samples_per_class or form.train_per_class, form.train_per_class)
    held_out = _num_held_out(kept, options, "each class") if options.val_fraction > 0 else 0
    return Counts(
        num_train=num_classes * (kept - held_out),
        num_val=num_classes * held_out,
        num_test=num_classes * form.test_per_class,
        num_classes=num_classes,
        input_size=getattr(options, "size", form.input_size),
    )


def select(data: ImageData, options: DatasetOptions) -> SelectedData:
    """Apply the options that every data set has, in this order, and keep the order of the images.

    1. `num_classes`: the first classes, of the training and the test set.
    2. `samples_per_class`: the first training images of each class; a class with fewer keeps all.
    3. `val_fraction`: of what is left of each class, this share, rounded, and at least one image,
       is held out. Which ones depends on `split_seed`, the class and the number of its images only:
       neither on the other classes nor on the run's seed.

    Raises:
        KdctlError: more classes than there are, none of which is among the test or validation images, or
            too few images to hold some out.
    """
    num_classes = _checked_num_classes(data.num_classes, options)
    class_rows = [np.flatnonzero(data.train.labels == label) for label in range(num_classes)]
    kept = [rows[: options.samples_per_class] for rows in class_rows]
    train_rows, val_rows = np.sort(np.concatenate(kept)), None
    if options.val_fraction > 0:
        held_out = [
            _held_out(rows, options, label=label, class_name=data.class_names[label])
            for label, rows in enumerate(kept)
        ]
        val_rows = np.sort(np.concatenate(held_out))
        train_rows = np.setdiff1d(train_rows, val_rows, assume_unique=True)
    val = None if val_rows is None else data.train.taken(val_rows)
    if data.val is not None and val is None:
        val = _of_first_classes(data.val, num_classes, "validation")
    return SelectedData(
        train=data.train.taken(train_rows),
        val=val,
        test=_of_first_classes(data.test, num_classes, "test"),
        class_names=data.class_names[:num_classes],
        mean=data.mean,
        std=data.std,
    )


def _of_first_classes(split: Split | StreamedSplit, num_classes: int, what: str) -> Split | StreamedSplit:
    """Return the images of the first classes of a split that is evaluated.

    Raises:
        KdctlError: there are none.
    """
    rows = np.flatnonzero(split.labels < num_classes)
    if not len(rows):
        raise KdctlError(
            f"[data] num_classes = {num_classes}: the data set has no {what} images of these classes.",
            "raise it, or leave it out to keep all.",
        )
    return split.taken(rows)


def _checked_num_classes(there_are: int, options: DatasetOptions) -> int:
    if options.num_classes is None:
        return there_are
    if options.num_classes > there_are:
        raise KdctlError(
            f"[data] num_classes = {options.num_classes}, but the data set has {there_are} classes.",
            f"set it to {there_are} or less, or leave it out to keep all.",
        )
    return options.num_classes


def _held_out(rows: Rows, options: DatasetOptions, *, label: int, class_name: str) -> Rows:
    """Choose the validation images among the `rows` of one class."""
    count = _num_held_out(len(rows), options, f"class '{class_name}'")
    # Ranks of raw draws instead of Generator.permutation: NumPy keeps the stream of a bit generator
    # for ever, but may change what a Generator makes of it, and old run keys must keep their meaning.
    draws = np.random.PCG64([options.split_seed, label]).random_raw(len(rows))
    return rows[np.argsort(draws, kind="stable")[:count]]


def _num_held_out(num_images: int, options: DatasetOptions, whose: str) -> int:
    """Return how many of a class's training images are for validation."""
    count = max(1, int(num_images * options.val_fraction + 0.5))
    if count >= num_images:
        raise KdctlError(
            f"[data] val_fraction = {options.val_fraction} holds out {count} of the {num_images} training "
            f"images of {whose} and leaves none to train on.",
            "lower val_fraction, or raise samples_per_class.",
        )
    return count
