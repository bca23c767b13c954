"""CIFAR-10 and CIFAR-100, wherever they lie: the official files, class folders, or the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import (
    BalancedForm,
    DatasetOptions,
    ImageData,
    Split,
    canonical_order,
    fingerprint,
    without_training_images,
)
from kdctl.readers.archive import Archive, DownloadError, download, find_archive, unpacked_archive
from kdctl.readers.array_images import enlarged
from kdctl.readers.cifar_pickles import SIDE, PickleLayout, read_pickled_data
from kdctl.readers.class_folders import decode_listing, list_class_folders
from kdctl.readers.decoded_cache import user_cache
from kdctl.readers.folder_entries import some_of
from kdctl.readers.pixels import IMAGENET_MEAN, IMAGENET_STD, Triple
from kdctl.recipe.component import option


@dataclass(frozen=True, kw_only=True)
class CifarOptions(DatasetOptions):
    """The options of both data sets."""

    size: Annotated[int, Ge(SIDE), Le(1024)] = option(SIDE, since="0.2.0")
    """Height and width of a model's input in pixels. For a larger one than 32, worker processes scale the
    images, and normalise them as those of ImageNet are: so that models trained there can go on here."""


@dataclass(frozen=True, kw_only=True)
class CifarFacts:
    """What is publicly known of one of the two data sets."""

    name: str
    """As in a recipe; also the folder below the root that class folders may lie in."""
    class_names: tuple[str, ...]
    """Alphabetical."""
    train_per_class: int
    test_per_class: int
    layout: PickleLayout
    archive: Archive
    mean: Triple
    """Per channel, of pixels scaled to [0, 1]."""
    std: Triple
    """Per channel."""
    fingerprint: str | None
    """What `protocols.dataset.fingerprint` must give; None: not checked."""

    @property
    def form(self) -> BalancedForm:
        """How many images there are."""
        return BalancedForm(
            num_classes=len(self.class_names),
            input_size=SIDE,
            train_per_class=self.train_per_class,
            test_per_class=self.test_per_class,
        )


def load_at_size(facts: CifarFacts, root: Path, options: CifarOptions) -> ImageData:
    """Read CIFAR, and let its images be scaled if the options say so.

    Raises:
        KdctlError: as `load_cifar`.
    """
    data = load_cifar(facts, root)
    if options.size == SIDE:
        return data
    return enlarged(data, options.size, IMAGENET_MEAN, IMAGENET_STD)


def load_test_at_size(facts: CifarFacts, root: Path, options: CifarOptions) -> ImageData:
    """Read what an evaluation needs, scaled if the options say so; see `load_cifar_test`.

    Raises:
        KdctlError: as `load_cifar`.
    """
    if options.size == SIDE:
        return load_cifar_test(facts, root)
    return without_training_images(load_at_size(facts, root, options))


def load_cifar(facts: CifarFacts, root: Path, *, cache: Path | None = None) -> ImageData:
    """Read CIFAR from the first place below `root` that has it, else fetch it.

    The places: the official files (`<root>/cifar-100-python/`, `<root>/cifar-10-batches-py/`),
    class folders (`<root>/<name>/{train,test}/<class>/`), class folders right in `<root>`, the
    official archive in `<root>` or `<root>/<name>`, and last that archive from the network. It is
    unpacked below `root`.

    Args:
        facts: which of the two it is.
        root: folder of data sets.
        cache: folder for decoded images; None: the user's cache.

    Raises:
        KdctlError: the data are nowhere, or files are missing, damaged or altered.
    """
    pickles = root / facts.layout.folder
    folders = [root / facts.name, root]
    if pickles.is_dir():
        return _from_pickles(facts, pickles)
    for folder in folders:
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return _from_class_folders(facts, folder, cache or user_cache())
    files = [file.name for file in facts.layout.files]
    if packed := find_archive(facts.archive, *folders):
        with unpacked_archive(
            packed, facts.archive, root, folder=facts.layout.folder, files=files
        ) as unpacked:
            return _from_pickles(facts, unpacked)
    try:
        return _from_pickles(facts, download(facts.archive, root, folder=facts.layout.folder, files=files))
    except DownloadError as error:
        places = [str(pickles), *(str(folder / "{train,test}" / "<class>") for folder in folders)]
        places.append(str(root / facts.archive.name))
        raise KdctlError(
            f"the data set '{facts.name}' is nowhere: looked for {', '.join(places)}; "
            f"then the download failed ({error}).",
            f"put {facts.archive.url} into {root}, packed or unpacked, or name another folder: --data.",
        ) from error


def load_cifar_test(facts: CifarFacts, root: Path) -> ImageData:
    """Read CIFAR without its training images, where the official files lie below `root`; else all of it.

    Raises:
        KdctlError: as `load_cifar`; of the official files, those of the training set may be missing.
    """
    folder = root / facts.layout.folder
    if not folder.is_dir():
        return without_training_images(load_cifar(facts, root))
    data = read_pickled_data(folder, dataclasses.replace(facts.layout, train=()))
    found = np.bincount(data.test.labels, minlength=len(data.class_names)).tolist()
    _check_counts(facts, folder, dict(zip(data.class_names, found, strict=True)), facts.test_per_class)
    return ImageData(
        train=data.train,
        test=canonical_order(data.test),
        class_names=facts.class_names,
        mean=facts.mean,
        std=facts.std,
    )


def _from_pickles(facts: CifarFacts, folder: Path) -> ImageData:
    data = read_pickled_data(folder, facts.layout)
    for split, per_class in ((data.train, facts.train_per_class), (data.test, facts.test_per_class)):
        found = np.bincount(split.labels, minlength=len(data.class_names)).tolist()
        _check_counts(facts, folder, dict(zip(data.class_names, found, strict=True)), per_class)
    return _verified(facts, folder, canonical_order(data.train), canonical_order(data.test))


def _from_class_folders(facts: CifarFacts, folder: Path, cache: Path) -> ImageData:
    train, test = list_class_folders(folder / "train"), list_class_folders(folder / "test")
    # Counted before anything is decoded: a folder that lacks files says so at once.
    _check_counts(facts, train.folder, train.counts(), facts.train_per_class)
    _check_counts(facts, test.folder, test.counts(), facts.test_per_class)
    splits = [decode_listing(listing, size=SIDE, cache=cache) for listing in (train, test)]
    return _verified(facts, folder, *splits)


def _check_counts(facts: CifarFacts, place: Path, counts: Mapping[str, int], per_class: int) -> None:
    """Check that `counts` has the official classes, each with `per_class` images."""
    hint = "unpack the original data anew."
    lacking = [name for name in facts.class_names if name not in counts]
    foreign = [name for name in counts if name not in facts.class_names]
    if lacking or foreign:
        complaints = (("it lacks", lacking), ("it has", foreign))
        raise KdctlError(
            f"{place} does not have the {len(facts.class_names)} classes of '{facts.name}': "
            + "; ".join(f"{verb} {some_of(names)}" for verb, names in complaints if names)
            + ".",
            hint,
        )
    wrong = [f"{count} of {name}" for name, count in counts.items() if count != per_class]
    if wrong:
        raise KdctlError(
            f"{place} should have {per_class} images of each class, but has {some_of(wrong)}.", hint
        )


def _verified(facts: CifarFacts, folder: Path, train: Split, test: Split) -> ImageData:
    """Return the data once their content is that of the published data set."""
    data = ImageData(train=train, test=test, class_names=facts.class_names, mean=facts.mean, std=facts.std)
    if facts.fingerprint is not None and fingerprint(data) != facts.fingerprint:
        raise KdctlError(
            f"the images in {folder} are not those of '{facts.name}' as published: some were altered.",
            "unpack the original data anew; images must be stored without loss (PNG, not JPEG).",
        )
    return data
