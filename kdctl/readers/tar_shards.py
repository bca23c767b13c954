"""Images in tar shards, as WebDataset has them: `train-000000.tar` with pairs `name.jpg` and `name.cls`.

A shard is listed once, when the data set is opened; then single images are read from where they lie in it, in
any order. So order and augmentation are those of files in folders, and shards can be packed anew without
changing a number.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdctl.errors import KdctlError
from kdctl.files import is_file
from kdctl.readers.folder_entries import is_image_name, some_of, visible_entries
from kdctl.readers.image_manifest import ImageListing, ImageNames
from kdctl.readers.shard_classes import CLASS_NAMES

LABEL_SUFFIX = ".cls"
"""Of a sample's class: its name, or its rank from 0."""

SUFFIX = ".tar"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")

_LONGEST_LABEL = 1000
"""Bytes: what is larger is no class."""

_BLOCK = 512
"""Bytes: what a tar is made of, and its zeros at the end at least."""

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShardListing(ImageListing):
    """Images within tar files, nothing decoded yet."""

    shards: tuple[str, ...]
    """Names of the files."""
    shard: npt.NDArray[np.int64]
    """[N]: in which of them each image is."""
    offsets: npt.NDArray[np.int64]
    """[N]: where it begins there, in bytes."""

    def content(self, row: int) -> bytes:
        """Return the encoded image.

        Raises:
            OSError: its shard cannot be read, or is shorter than it was.
        """
        path = self.folder / self.shards[int(self.shard[row])]
        count = int(self.num_bytes[row])
        with path.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), count, int(self.offsets[row]))
        if len(content) < count:
            raise OSError(None, "the shard is shorter than it was", str(path))
        return content


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """One image of a shard."""

    name: str
    shard: int
    offset: int
    num_bytes: int
    label: str


def find_shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split, by name: all in a folder `<split>`, or else `<split>*.tar`.

    Raises:
        KdctlError: a folder cannot be read, both places have shards, or one is no file or compressed.
    """
    beside = _shards_in(folder, beginning=split)
    inner = _shards_in(folder / split) if os.path.lexists(folder / split) else []
    if inner and beside:
        raise KdctlError(
            f"{folder} has shards of {split} in the folder {split}, and others beside it.",
            "move them to one place: which of them are meant is not said.",
        )
    return inner or beside


def _shards_in(folder: Path, *, beginning: str = "") -> list[Path]:
    entries = [Path(entry.path) for entry in visible_entries(folder) if entry.name.startswith(beginning)]
    paths = [path for path in entries if path.name.lower().endswith(SUFFIX)]
    if broken := [path.name for path in paths if not is_file(path)]:
        raise KdctlError(
            f"{folder} has shards that are no files, or links that point nowhere: {some_of(broken)}.",
            "restore them, or move them away.",
        )
    if packed := [path.name for path in entries if path.name.lower().endswith(_PACKED)]:
        raise KdctlError(
            f"{folder} has shards that are compressed, so that images cannot be read: {some_of(packed)}.",
            "unpack each to a .tar (gunzip, unxz, unzstd).",
        )
    return paths


class Shards:
    """The shards of one split, listed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """List them all.

        Raises:
            KdctlError: a shard is damaged, cut short or compressed, or its samples are no pairs: all of it.
        """
        self._paths = list(paths)
        self._problems: list[str] = []
        self._samples = [
            sample for number, path in enumerate(self._paths) for sample in self._list(number, path)
        ]
        if self._problems:
            raise KdctlError(
                f"{len(self._problems)} of the shards' contents cannot be used: {some_of(self._problems)}.",
                f"a sample is an image and a file {LABEL_SUFFIX} of its name, in a tar without compression.",
            )

    def labels(self) -> set[str]:
        """Return the classes as they are written."""
        return {sample.label for sample in self._samples}

    def listing(self, ranks: Mapping[str, int]) -> ShardListing:
        """Return the images with their ranks.

        Args:
            ranks: of the classes, as they are written; -1: there is no such class.

        Raises:
            KdctlError: samples of classes that are not known.
        """
        found = [ranks.get(sample.label, -1) for sample in self._samples]
        unknown = {sample.label for sample, rank in zip(self._samples, found, strict=True) if rank < 0}
        if unknown:
            raise KdctlError(
                f"the shards have classes that are not known: {some_of(sorted(unknown))}.",
                f"the classes of train are known, or those that {CLASS_NAMES} names.",
            )
        samples, folder = self._samples, self._paths[0].parent
        times = [path.stat().st_mtime_ns for path in self._paths]
        return ShardListing(
            folder=folder,
            names=ImageNames([f"{self._paths[one.shard].name}/{one.name}" for one in samples]),
            labels=np.array(found, dtype=np.int64),
            num_bytes=np.array([one.num_bytes for one in samples], dtype=np.int64),
            modified_ns=np.array([times[one.shard] for one in samples], dtype=np.int64),
            shards=tuple(path.name for path in self._paths),
            shard=np.array([one.shard for one in samples], dtype=np.int64),
            offsets=np.array([one.offset for one in samples], dtype=np.int64),
        )

    def _list(self, number: int, path: Path) -> list[_Sample]:
        images: dict[str, tarfile.TarInfo] = {}
        labels: dict[str, str] = {}
        try:
            num_bytes = path.stat().st_size
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if member.size < 0:  # older versions of Python go back by it, and never come to an end
                        raise tarfile.ReadError(f"{member.name} has a negative size")
                    self._problems += [f"{path}: {why}" for why in _take(archive, member, images, labels)]
                    if member.isreg() and member.offset_data + member.size > num_bytes:
                        raise tarfile.ReadError(f"cut short within {member.name}")
                _require_end(path, archive.offset)
        except (tarfile.TarError, OSError) as error:
            self._problems.append(f"{path} ({error})")
            return []
        alone = sorted(images.keys() ^ labels.keys())
        self._problems += [f"{path}: {key} has no {'image' if key in labels else 'class'}" for key in alone]
        return [
            _Sample(
                name=member.name,
                shard=number,
                offset=member.offset_data,
                num_bytes=member.size,
                label=labels[key],
            )
            for key, member in images.items()
            if key in labels
        ]


def _take(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    images: dict[str, tarfile.TarInfo],
    labels: dict[str, str],
) -> Iterator[str]:
    """Put a file of a shard among its images or labels; yield why not, where it should be one."""
    key, suffix = _split_name(member.name)
    is_image = is_image_name(member.name)
    if member.isdir() or not (is_image or suffix == LABEL_SUFFIX):
        return
    if not member.isfile() or member.issparse():
        yield f"{member.name} is a link, or no plain file"
    elif key in (images if is_image else labels):
        yield f"{key} has two {'images' if is_image else 'classes'}"
    elif is_image:
        images[key] = member
    elif 0 < member.size <= _LONGEST_LABEL:
        file = archive.extractfile(member)
        try:
            labels[key] = file.read().decode("utf-8").strip() if file else ""
        except UnicodeDecodeError:
            yield f"the class of {key} is not in UTF-8"
            return
        if not labels[key]:
            yield f"the class of {key} is empty"


def _require_end(path: Path, offset: int) -> None:
    """Refuse a shard whose list of files ends for another reason than its end: they would be left out.

    Args:
        path: the shard.
        offset: where the first block lies that tells of no file.

    Raises:
        tarfile.ReadError: it is cut short, damaged, or something follows its end.
    """
    with path.open("rb") as file:
        file.seek(offset)
        first = file.read(_BLOCK)
        if len(first) < _BLOCK:
            raise tarfile.ReadError("cut short: it lacks the zeros that end a tar")
        if any(first):
            raise tarfile.ReadError(f"damaged at byte {offset}")
        while rest := file.read(_CHUNK):
            if rest.count(0) < len(rest):
                raise tarfile.ReadError("something follows its end, as if several had been joined")


def _split_name(name: str) -> tuple[str, str]:
    """Return a sample's key and the suffix: what follows the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()
