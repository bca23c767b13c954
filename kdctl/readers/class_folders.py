"""Class folders: `train/<class>/<image>` and `test/<class>/<image>`.

Classes are numbered in alphabetical order of their folders' names. Hidden files and folders, and
files that are no images by their suffix, are skipped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import Images, Labels, Split, canonical_order
from kdctl.readers.decoded_cache import cached
from kdctl.readers.pixels import IMAGE_SUFFIXES, UnreadableImageError, read_image, resized

_DECODING = "1"
"""Part of every cache key; raise it when the same files would give other pixels or another order."""

_SHOWN = 3
"""How many offenders an error names before it counts the rest."""

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
        """Return a hash that changes with any file's name, size or time, and with how we decode."""
        digest = hashlib.sha256(f"{_DECODING} {PIL.__version__} {size} {resize}\n".encode())
        for file in self.files:
            name = file.path.relative_to(self.folder).as_posix()
            digest.update(os.fsencode(f"{name}\0{file.num_bytes}\0{file.modified_ns}\n"))
        return digest.hexdigest()


def list_class_folders(folder: Path) -> FolderListing:
    """List the classes below `folder` and their image files.

    Raises:
        KdctlError: no such folder, no class in it, or a class without images.
    """
    hint = f"put images into {folder}{os.sep}<class>{os.sep}."
    if not folder.is_dir():
        raise KdctlError(f"there is no folder {folder}.", hint)
    classes = sorted((entry for entry in _visible(folder) if entry.is_dir()), key=lambda entry: entry.name)
    if not classes:
        raise KdctlError(f"{folder} has no class folders.", hint)
    per_class = [_list_class(Path(entry.path), label) for label, entry in enumerate(classes)]
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


def decode_listing(listing: FolderListing, *, size: int, cache: Path, resize: bool = False) -> Split:
    """Decode all files of a listing, or take them from the cache, in canonical order.

    Args:
        listing: the files.
        size: height and width of all images, in pixels.
        cache: folder for decoded images.
        resize: scale images of another size; otherwise they are an error.

    Raises:
        KdctlError: files that cannot be read, or that have another size; all are counted.
    """
    key = listing.content_key(size, resize=resize)
    return cached(key, lambda: _decode(listing, size, resize=resize), folder=cache)


def check_same_classes(train: FolderListing, test: FolderListing) -> None:
    """Check that both splits have the same classes.

    Raises:
        KdctlError: some class is in one of them only.
    """
    only_train = sorted({*train.class_names} - {*test.class_names})
    only_test = sorted({*test.class_names} - {*train.class_names})
    problems = [
        f"{some_of(names)} only in {listing.folder}"
        for names, listing in ((only_train, train), (only_test, test))
        if names
    ]
    if problems:
        raise KdctlError(
            f"training and test set have different classes: {'; '.join(problems)}.",
            "give both the same class folders, each with images.",
        )


def some_of(names: Sequence[str]) -> str:
    """Word a list: the first few in full, the rest counted."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _list_class(folder: Path, label: int) -> list[ImageFile]:
    entries = [
        entry
        for entry in _visible(folder)
        if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file()  # noqa: PTH122 - 3x faster
    ]
    return [_image_file(entry, label) for entry in sorted(entries, key=lambda entry: entry.name)]


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

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter's lock
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
    image = read_image(path)
    if resize:
        return np.asarray(resized(image, size))
    if image.size != (size, size):
        raise UnreadableImageError(f"{image.width}x{image.height} pixels instead of {size}x{size}")
    return np.asarray(image)
