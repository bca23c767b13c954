"""Large sets of image files, listed and checked without keeping any image."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import CentreCrop, Labels, StreamedSplit
from kdctl.readers.folder_entries import UnusableEntries, require_split, some_of
from kdctl.readers.image_content import decode_image
from kdctl.readers.image_manifest import ImageListing, ImageNames, file_digests
from kdctl.readers.scaled_images import ScaledImages

_log = logging.getLogger(__name__)


class ListedImages:
    """The images of a listing, decoded when they are asked for."""

    def __init__(self, listing: ImageListing) -> None:
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing)

    def read(self, row: int) -> Tensor:
        """Return an image [3, H, W], uint8.

        Raises:
            OSError: the file cannot be read.
            UnreadableImageError: it is no image any more.
        """
        listing = self._listing
        return decode_image(listing.content(row), str(listing.folder / listing.names[row]))


def list_images(folder: Path, class_names: Sequence[str], *, inner: str = "") -> ImageListing:
    """List the images of class folders.

    Args:
        folder: that holds the class folders.
        class_names: of the folders, alphabetical.
        inner: the folder within each of them that holds the images; empty: the class folder itself.

    Raises:
        KdctlError: classes without images, or what `UnusableEntries` names; all of a kind are counted.
    """
    found = _Found()
    empty: list[str] = []
    for label, name in enumerate(class_names):
        before = len(found.names)
        if inner:
            found.unusable.folders_of(folder / name, only=inner)
        found.scan(folder, f"{name}/{inner}" if inner else name, label)
        if len(found.names) == before:
            empty.append(name)
    found.unusable.refuse(folder)
    if empty:
        raise KdctlError(
            f"{folder} has classes without images: {some_of(empty)}.", "fill these folders, or remove them."
        )
    return found.listing(folder)


def list_labelled(folder: Path, labels: dict[str, int], source: Path, *, inner: str = "") -> ImageListing:
    """List images that lie side by side, with labels from a file.

    Args:
        folder: that holds the images, or the folder `inner` with them.
        labels: by file name, with or without its suffix.
        source: the file that the labels come from.
        inner: a folder below `folder`.

    Raises:
        KdctlError: images without a label, labels without an image, or what `UnusableEntries` names.
    """
    found = _Found()
    found.scan(folder, inner, 0)
    found.unusable.refuse(folder)
    base = [Path(name).name for name in found.names]
    ranks = [labels.get(name, labels.get(name.rpartition(".")[0], -1)) for name in base]
    unknown = [name for name, rank in zip(base, ranks, strict=True) if rank < 0]
    if unknown:
        raise KdctlError(
            f"{source} gives no class for {len(unknown)} of {len(base)} images in {folder}: "
            f"{some_of(unknown)}.",
            "take the file that came with these images, or remove the others.",
        )
    if len(base) < len(labels):
        here = {name.rpartition(".")[0] for name in base} | {*base}
        lost = [name for name in labels if name not in here]
        raise KdctlError(
            f"{folder} lacks {len(labels) - len(base)} of {len(labels)} images that {source} names: "
            f"{some_of(lost)}.",
            "unpack the archive anew.",
        )
    found.labels = ranks
    return found.listing(folder)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders in `folder`, alphabetical.

    Raises:
        KdctlError: there is no such folder, no folder in it, or what `UnusableEntries` names beside them.
    """
    hint = f"put images into {folder}{os.sep}<class>{os.sep}."
    require_split(folder, hint)
    unusable = UnusableEntries()
    names = [entry.name for entry in unusable.folders_of(folder)]
    unusable.refuse(folder)
    if not names:
        raise KdctlError(f"{folder} has no class folders.", hint)
    return tuple(names)


def streamed_split(
    listing: ImageListing, evaluation: CentreCrop, cache: Path, *, stored_side: int = 0
) -> StreamedSplit:
    """Return the images of a listing in canonical order: by label, then by the SHA-256 of their files.

    Args:
        listing: the files.
        evaluation: how they are evaluated.
        cache: folder of what is kept.
        stored_side: their shorter side once they are scaled and kept; 0: they are not.

    Raises:
        KdctlError: files that cannot be read or are no images; all are counted.
    """
    digests = file_digests(listing, cache)
    rows = canonical_rows(listing.labels, digests)
    split = StreamedSplit(
        source=ListedImages(listing),
        rows=rows,
        labels=listing.labels[rows],
        digests=digests[rows],
        evaluation=evaluation,
    )
    if not stored_side:
        return split
    how = evaluation.interpolation
    scaled = ScaledImages(split.source, rows, split.digests, side=stored_side, interpolation=how, cache=cache)
    return replace(split, source=scaled, rows=np.arange(len(rows)))


def canonical_rows(labels: Labels, digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the order by label, then by digest [N, 32]."""
    words = digests.view(">u8")
    return np.lexsort((*(words[:, column] for column in range(3, -1, -1)), labels)).astype(np.int64)


class _Found:
    """Files that were found, and what is wrong with the folders."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.labels: list[int] = []
        self._num_bytes: list[int] = []
        self._modified_ns: list[int] = []
        self.unusable = UnusableEntries()

    def scan(self, root: Path, below: str, label: int) -> None:
        """Add the images of a folder."""
        folder = root / below
        if not folder.is_dir():
            return
        for entry in self.unusable.images_of(folder):
            status = entry.stat()
            self.names.append(f"{below}/{entry.name}" if below else entry.name)
            self.labels.append(label)
            self._num_bytes.append(status.st_size)
            self._modified_ns.append(status.st_mtime_ns)

    def listing(self, folder: Path) -> ImageListing:
        """Return what was found."""
        return ImageListing(
            folder=folder,
            names=ImageNames(self.names),
            labels=np.array(self.labels, dtype=np.int64),
            num_bytes=np.array(self._num_bytes, dtype=np.int64),
            modified_ns=np.array(self._modified_ns, dtype=np.int64),
        )
