"""Images in tar shards, as WebDataset has them: `train-000000.tar` with pairs `name.jpg` and `name.cls`.

A shard is listed once, when the data set is opened; then single images are read from where they lie in it, in
any order. So order and augmentation are those of files in folders, and shards can be packed anew without
changing a number.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdctl.errors import KdctlError
from kdctl.readers.folder_entries import is_image_name, some_of
from kdctl.readers.image_manifest import ImageListing, ImageNames

LABEL_SUFFIX = ".cls"
"""Of a sample's class: its name, or its rank from 0."""

CLASS_NAMES = "classes.txt"
"""Beside the shards, one name per line: what ranks are called."""

_LONGEST_LABEL = 1000
"""Bytes: what is larger is no class."""


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
    """Return the shards of a split, by name: all in a folder `<split>`, or else `<split>*.tar`."""
    places = ((folder / split).glob("*.tar"), folder.glob(f"{split}*.tar"))
    found = (sorted(path for path in place if path.is_file() and path.name[0] != ".") for place in places)
    return next((paths for paths in found if paths), [])


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

    def listing(self, class_names: Sequence[str]) -> ShardListing:
        """Return the images with their ranks.

        Raises:
            KdctlError: samples of classes that have no name.
        """
        ranks = {name: rank for rank, name in enumerate(class_names)}
        found = [ranks.get(sample.label, _rank(sample.label, len(ranks))) for sample in self._samples]
        unknown = {sample.label for sample, rank in zip(self._samples, found, strict=True) if rank < 0}
        if unknown:
            raise KdctlError(
                f"the shards have {len(unknown)} class(es) that are not known: {some_of(sorted(unknown))}.",
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
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    key, suffix = _split_name(member.name)
                    if not member.isfile():
                        continue
                    if suffix == LABEL_SUFFIX and member.size <= _LONGEST_LABEL:
                        file = archive.extractfile(member)
                        labels[key] = file.read().decode("utf-8", "replace").strip() if file else ""
                    elif is_image_name(member.name):
                        images[key] = member
                        self._require_whole(path, member)
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

    def _require_whole(self, path: Path, member: tarfile.TarInfo) -> None:
        if member.offset_data + member.size > path.stat().st_size:
            raise tarfile.ReadError(f"cut short within {member.name}")


def class_names_of(folder: Path, labels: set[str]) -> tuple[str, ...]:
    """Return the names of the classes, by rank.

    Args:
        folder: with the shards, and perhaps `classes.txt`.
        labels: of the training samples, as they are written.
    """
    path = folder / CLASS_NAMES
    if path.is_file():
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if all(label.isdigit() for label in labels):
        highest = max(int(label) for label in labels)
        return tuple(str(rank).zfill(len(str(highest))) for rank in range(highest + 1))
    return tuple(sorted(labels))


def _rank(label: str, num_classes: int) -> int:
    return int(label) if label.isdigit() and int(label) < num_classes else -1


def _split_name(name: str) -> tuple[str, str]:
    """Return a sample's key and the suffix: what follows the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()
