"""Folders of images that are decoded when they are needed: which splits there are, and their labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

from kdctl.errors import KdctlError
from kdctl.files import read_file, unreadable
from kdctl.machine_errors import results_of
from kdctl.protocols.dataset import CentreCrop, DatasetOptions, ImageData, Interpolation, StreamedSplit
from kdctl.readers.class_folders import check_same_classes, refuse_tiny_imagenet
from kdctl.readers.decoded_cache import user_cache
from kdctl.readers.folder_entries import is_image_name, some_of, visible_entries
from kdctl.readers.image_listing import (
    ImageListing,
    class_folders,
    list_images,
    list_labelled,
    streamed_split,
)
from kdctl.readers.imagenet_devkit import find_ground_truth, ground_truth_labels
from kdctl.readers.pixels import IMAGENET_MEAN, IMAGENET_STD
from kdctl.readers.shard_classes import ranks_of
from kdctl.recipe.component import Spec, component, option
from kdctl.text import plural

LABEL_FILES = ("LOC_val_solution.csv", "val.txt", "val_annotations.txt", "ground_truth.txt")
"""Where the classes of images may stand that do not lie in class folders; in this order."""

_LARGEST_LABELS = 2**30
"""Bytes of such a file."""


@dataclass(frozen=True, kw_only=True)
class StreamedOptions(DatasetOptions):
    """The options of data sets whose images are decoded when they are needed."""

    size: Annotated[int, Gt(0), Le(4096)] = 224
    """Height and width of a model's input in pixels."""
    resize: Annotated[int, Gt(0), Le(8192)] = 256
    """In an evaluation the shorter side is scaled to this, then the middle is cut."""
    interpolation: Interpolation = "bilinear"
    """How images are scaled in an evaluation, always antialiased."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per channel, of pixels scaled to [0, 1]: subtracted from the input."""
    std: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = IMAGENET_STD
    """Per channel: what the input is divided by."""
    augmentation: Spec = component("augmentation", "random-resized-crop", was_a_name=True)
    """Of training images: `kdctl list augmentations` shows which there are."""

    stored_side: Annotated[int, Ge(0), Le(8192)] = option(0, since="0.2.0")
    """Scale images once, until their shorter side has so many pixels, and keep them in your cache folder as
    bytes, which need no decoding; 0: files are decoded whenever they are needed."""

    @property
    def evaluation(self) -> CentreCrop:
        """How an image is evaluated."""
        return CentreCrop(
            resize=max(self.resize, self.size), size=self.size, interpolation=self.interpolation
        )


def load_streamed_folders(folder: Path, options: StreamedOptions, *, cache: Path | None = None) -> ImageData:
    """List and check `train`, and `val`, `test` or both.

    With both, `val` is the validation split; otherwise the one that is there is the test split. Its images
    lie in class folders like those of `train`, or side by side, with a file that names their classes.

    Args:
        folder: that holds the splits.
        options: of the data set.
        cache: where hashes are kept; None: the user's cache.

    Raises:
        KdctlError: no such folders, images without classes, classes that differ, files that cannot be used.
    """
    refuse_tiny_imagenet(folder)
    names = class_folders(folder / "train")
    others = {name: folder / name for name in ("val", "test") if os.path.lexists(folder / name)}
    if not others:
        raise KdctlError(
            f"{folder} has neither a folder val nor a folder test.",
            "put the images to test on into one of them.",
        )
    # A lost validation split that is passed over would leave runs without one.
    if lost := [str(place) for place in others.values() if not place.is_dir()]:
        raise KdctlError(
            f"{' and '.join(lost)}: no folder, or a link that points nowhere.",
            "restore what it points to, or remove it.",
        )
    train, *listings = results_of(
        partial(list_images, folder / "train", names),
        *(partial(_list_other, place, names, folder) for place in others.values()),
    )
    return data_of(
        train, listings[-1], names, options, val=listings[0] if len(others) > 1 else None, cache=cache
    )


def data_of(
    train: ImageListing,
    test: ImageListing,
    class_names: tuple[str, ...],
    options: StreamedOptions,
    *,
    val: ImageListing | None = None,
    cache: Path | None = None,
) -> ImageData:
    """Check and hash the files of all splits.

    Raises:
        KdctlError: files that cannot be read or are no images; all of a split are counted.
    """

    def split(listing: ImageListing) -> StreamedSplit:
        place = cache or user_cache()
        return streamed_split(listing, options.evaluation, place, stored_side=options.stored_side)

    listings = [train, test, *([] if val is None else [val])]
    train_split, test_split, *val_split = results_of(*(partial(split, listing) for listing in listings))
    return ImageData(
        train=train_split,
        test=test_split,
        val=val_split[0] if val_split else None,
        class_names=class_names,
        mean=options.mean,
        std=options.std,
    )


def read_labels(path: Path, class_names: Sequence[str]) -> dict[str, int]:
    """Read the classes of images from a file: one image per line, its name and then its class.

    They are separated by a tab, a space or a comma. The class is a name (what follows it on the line is
    ignored: boxes), or its alphabetical rank; see `ranks_of`.

    Raises:
        KdctlError: it cannot be read, or has lines that name no class or contradict each other.
    """
    words = {number: " ".join(row).split() for number, row in enumerate(_rows(path), 1)}
    # The heading of Kaggle's table begins with ImageId.
    said = {number: (*line, "")[:2] for number, line in words.items() if line and line[0] != "ImageId"}
    ranks = ranks_of((label for _, label in said.values()), class_names)
    labels: dict[str, int] = {}
    wrong: list[str] = []
    contrary: list[str] = []
    for number, (image, label) in said.items():
        rank = ranks[label]
        if rank < 0:
            wrong.append(f"line {number}")
        elif labels.setdefault(image, rank) != rank:
            contrary.append(f"line {number}")
    for lines, what in (
        (wrong, "names no class of the training set"),
        (contrary, "gives an image another class than before"),
    ):
        if lines:
            raise KdctlError(
                f"{path} {what} in {plural(len(lines), 'line')}: {some_of(lines)}.",
                "each line is: name of an image, then its class (a folder of train, or its rank).",
            )
    return labels


def _rows(path: Path) -> list[list[str]]:
    try:
        text = read_file(path, at_most=_LARGEST_LABELS).decode("utf-8-sig", "replace")
        return list(csv.reader(io.StringIO(text, newline="")))
    except OSError as error:
        raise unreadable(path, error) from error
    except csv.Error as error:
        raise KdctlError(
            f"{path} is no table ({error}).", "restore the file that came with the images."
        ) from error


def _list_other(place: Path, class_names: tuple[str, ...], folder: Path) -> ImageListing:
    """List a split beside the training set, by class folders or by a file of labels."""
    entries = visible_entries(place)
    images = [entry.name for entry in entries if is_image_name(entry.name)]
    if images:
        kit = find_ground_truth(place, folder)
        if kit is not None:
            labels = ground_truth_labels(kit, images, class_names)
            return list_labelled(place, labels, kit)
        files = [root / name for root in (place, folder) for name in LABEL_FILES if (root / name).is_file()]
        if not files and not any(entry.is_dir() for entry in entries):
            raise KdctlError(
                f"{place} has images side by side, and nothing says of which class each is.",
                f"put them into class folders as in {folder / 'train'}, or add {place / LABEL_FILES[1]} "
                "with a line for each: name of the image, then its class.",
            )
        if files:
            return list_labelled(place, read_labels(files[0], class_names), files[0])
    found = class_folders(place)
    check_same_classes(folder / "train", class_names, place, found)
    return list_images(place, class_names)
