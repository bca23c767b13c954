"""Class folders: `train/<class>/<image>` and `test/<class>/<image>`.

Classes are numbered in alphabetical order of their folders' names. Hidden files and folders, and
files that are no images by their suffix, are skipped.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from kdctl.errors import KdctlError
from kdctl.files import open_file
from kdctl.protocols.dataset import Images, Labels, Split, canonical_order
from kdctl.readers.decoded_cache import cached, probes
from kdctl.readers.folder_entries import UnusableEntries, require_split, some_of
from kdctl.readers.pixels import (
    UnreadableImageError,
    decoding_threads,
    read_image,
    refusing_enormous_images,
    resized,
    upright,
)

_log = logging.getLogger(__name__)

_VALIDATION = ("val", "valid", "validation")
"""What people call the folder of their validation images."""

_DECODING = "3"
"""Part of every cache key; raise it when the same files would give other pixels or another order."""

_COPIES = 2
"""Of all pixels at a time: as they were decoded, and in their order."""

_CHUNK = 256
"""Files that a decoding thread takes at a time."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One image on disk, with what tells that it has changed."""

    path: Path
    label: int
    num_bytes: int
    modified_ns: int


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The classes of one split and their files, nothing decoded yet."""

    folder: Path
    class_names: tuple[str, ...]
    """Alphabetical; a label is a rank in it."""
    files: tuple[ImageFile, ...]
    """By class, then by name."""

    def counts(self) -> dict[str, int]:
        """Return how many images each class has."""
        per_label = np.bincount([file.label for file in self.files], minlength=len(self.class_names))
        return dict(zip(self.class_names, per_label.tolist(), strict=True))

    def content_key(self, size: int, *, resize: bool) -> str:
        """Return a hash that changes with any file's name, size or time, and with how we decode.

        It also changes with the content of some of the files, lest other images of the same names, sizes and
        times are taken for these: see `probes`.

        Raises:
            OSError: one of them cannot be read.
        """
        digest = hashlib.sha256(f"{_DECODING} {PIL.__version__} {size} {resize}\n".encode())
        for file in self.files:
            name = file.path.relative_to(self.folder).as_posix()
            digest.update(os.fsencode(f"{name}\0{file.num_bytes}\0{file.modified_ns}\n"))
        for place in probes(len(self.files)):
            with open_file(self.files[place].path) as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def list_class_folders(folder: Path) -> FolderListing:
    """List the classes below `folder` and their image files.

    Raises:
        KdctlError: no such folder, no class in it, a class without images, or what `UnusableEntries` names;
            all of a kind are counted.
    """
    hint = f"put images into {folder}{os.sep}<class>{os.sep}."
    require_split(folder, hint)
    unusable = UnusableEntries()
    classes = unusable.folders_of(folder)
    per_class = [
        [_image_file(file, label) for file in unusable.images_of(Path(entry.path))]
        for label, entry in enumerate(classes)
    ]
    unusable.refuse(folder)
    if not classes:
        raise KdctlError(f"{folder} has no class folders.", hint)
    empty = [entry.name for entry, files in zip(classes, per_class, strict=True) if not files]
    if empty:
        raise KdctlError(
            f"{folder} has classes without images: {some_of(empty)}.", f"fill or remove them; {hint}"
        )
    return FolderListing(
        folder=folder,
        class_names=tuple(entry.name for entry in classes),
        files=tuple(file for files in per_class for file in files),
    )


def refuse_tiny_imagenet(folder: Path) -> None:
    """Refuse the layout that another data set reads.

    Raises:
        KdctlError: names that data set.
    """
    if (folder / "val" / "val_annotations.txt").is_file() and (folder / "val" / "images").is_dir():
        raise _is_tiny_imagenet(folder)


def _is_tiny_imagenet(folder: Path) -> KdctlError:
    return KdctlError(
        f"{folder} has the layout of Tiny-ImageNet: images one folder deeper, and val without classes.",
        "choose data.name = 'tinyimagenet', which reads it as it is.",
    )


def require_layout(folder: Path) -> None:
    """Refuse layouts that are known by another name than `train` and `test` with class folders.

    Of validation images beside both only tell, for nothing reads them.

    Raises:
        KdctlError: says which layout it is, and how to train with it.
    """
    if (folder / "wnids.txt").is_file() or (folder / "val" / "val_annotations.txt").is_file():
        raise _is_tiny_imagenet(folder)
    if not (folder / "train").is_dir():
        return
    for name in (name for name in _VALIDATION if (folder / name).is_dir()):
        if not (folder / "test").exists():
            raise KdctlError(
                f"{folder} has train and {name}, and no test: which images are tested on is not said.",
                f"rename {name} to test (or link it: ln -s {name} test); data.val_fraction holds images "
                "out of train.",
            )
        _log.warning(
            "%s: %s is not read; data.val_fraction holds images out of train, and "
            "data.name = 'streamedfolder' validates on a folder val",
            folder,
            name,
        )


def decode_listing(listing: FolderListing, *, size: int, cache: Path, resize: bool = False) -> Split:
    """Decode all files of a listing, or take them from the cache, in canonical order.

    Args:
        listing: the files.
        size: height and width of all images, in pixels.
        cache: folder for decoded images.
        resize: scale images of another size; otherwise they are an error.

    Raises:
        KdctlError: files that cannot be read, or that have another size, all are counted; or the pixels are
            more than the machine's memory holds.
    """
    _require_memory(listing, size)
    try:
        key = listing.content_key(size, resize=resize)
    except OSError:  # counted with all others of its kind
        return _decode(listing, size, resize=resize)
    return cached(key, lambda: _decode(listing, size, resize=resize), folder=cache)


def _require_memory(listing: FolderListing, size: int) -> None:
    """Refuse images that fit into no memory, before the system ends the process for trying.

    Raises:
        KdctlError: says how much they need, and how such images are trained on.
    """
    needed = _COPIES * len(listing.files) * size * size * 3
    if needed > (there_is := _memory_bytes()):
        raise KdctlError(
            f"{len(listing.files):,} images of {size}x{size} pixels in {listing.folder} need "
            f"{needed / 2**30:,.1f} GiB of memory, and this machine has {there_is / 2**30:,.1f} GiB.",
            "choose data.name = 'streamedfolder', which decodes images when needed, or lower data.size.",
        )


def _memory_bytes() -> float:
    """Return the size of the memory; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_same_classes(train: Path, names: Sequence[str], test: Path, found: Sequence[str]) -> None:
    """Check that both splits have the same classes, and tell of classes that may be one.

    Args:
        train: folder of the training set.
        names: its classes.
        test: folder of the other split.
        found: the classes there.

    Raises:
        KdctlError: some class is in one of them only.
    """
    sides = ((train, sorted({*names} - {*found})), (test, sorted({*found} - {*names})))
    problems = [f"{some_of(only)} only in {folder}" for folder, only in sides if only]
    if problems:
        hint = "give both the same class folders, each with images."
        if {*map(_heard, sides[0][1])} & {*map(_heard, sides[1][1])}:
            hint = f"some differ only in case, blanks or how an accent is stored: {hint}"
        raise KdctlError(f"training and test set have different classes: {'; '.join(problems)}.", hint)
    sounds = Counter(map(_heard, names))
    if alike := [name for name in names if sounds[_heard(name)] > 1]:
        _log.warning(
            "%s: %s differ only in case, blanks or how an accent is stored; each is a class of its own",
            train, some_of(alike),
        )  # fmt: skip


def _heard(name: str) -> str:
    """Return a name without what only its letters' codes tell."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _image_file(entry: os.DirEntry[str], label: int) -> ImageFile:
    status = entry.stat()
    return ImageFile(
        path=Path(entry.path), label=label, num_bytes=status.st_size, modified_ns=status.st_mtime_ns
    )


def _decode(listing: FolderListing, size: int, *, resize: bool) -> Split:
    images: Images = np.empty((len(listing.files), size, size, 3), dtype=np.uint8)

    def decode_chunk(start: int) -> list[str]:
        """Fill the rows from `start` on; return what went wrong."""
        problems: list[str] = []
        for row, file in enumerate(listing.files[start : start + _CHUNK], start):
            try:
                images[row] = _pixels(file.path, size, resize=resize)
            except UnreadableImageError as error:
                problems.append(f"{file.path} ({error})")
        return problems

    with refusing_enormous_images(), decoding_threads() as pool:
        chunks = pool.map(decode_chunk, range(0, len(listing.files), _CHUNK))
        problems = [problem for chunk in chunks for problem in chunk]
    if problems:
        raise KdctlError(
            f"{len(problems)} of {len(listing.files)} images in {listing.folder} cannot be used: "
            f"{some_of(problems)}.",
            "replace or remove these files.",
        )
    labels: Labels = np.array([file.label for file in listing.files], dtype=np.int64)
    return canonical_order(Split(images=images, labels=labels))


def _pixels(path: Path, size: int, *, resize: bool) -> Images:
    image = upright(read_image(path))
    if resize:
        return np.asarray(resized(image, size))
    if image.size != (size, size):
        raise UnreadableImageError(f"{image.width}x{image.height} pixels instead of {size}x{size}")
    return np.asarray(image)
