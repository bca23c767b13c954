"""The hashes of many image files, found once and kept.

Every file is read once, to hash it and to see that it is an image. What was found is kept in the user's
cache, so that the next process only looks whether sizes and times of the files are still the same, and reads
a few of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import Labels
from kdctl.readers.decoded_cache import probes
from kdctl.readers.folder_entries import some_of
from kdctl.readers.image_content import check_image
from kdctl.readers.pixels import UnreadableImageError, decoding_threads, refusing_enormous_images

_CHECKS = "1"
"""Part of the name of every stored manifest; raise it when other images than before would pass."""

_CHUNK = 64
"""Files that a thread checks at a time."""

SAVE_SECONDS = 60.0
"""Between two savings of an unfinished manifest, and between two reports of how far it is."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageListing:
    """Files of one split, nothing read yet; arrays, for there may be millions."""

    folder: Path
    names: ImageNames
    """Relative to `folder`."""
    labels: Labels
    """[N]: ranks among the class names."""
    num_bytes: npt.NDArray[np.int64]
    modified_ns: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def content(self, row: int) -> bytes:
        """Return the encoded image.

        Raises:
            OSError: its file cannot be read, or has another size than when it was listed.
        """
        path = self.folder / self.names[row]
        content = path.read_bytes()
        if len(content) != self.num_bytes[row]:
            raise OSError(None, "it has another size than when it was listed", str(path))
        return content


class ImageNames:
    """Names of files in one piece of memory: objects would be copied into every worker process."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.text = np.frombuffer(b"\0".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(name) + 1 for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        first = 0 if row == 0 else int(self._ends[row - 1])
        return os.fsdecode(self.text[first : int(self._ends[row]) - 1].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))


def file_digests(listing: ImageListing, cache: Path) -> npt.NDArray[np.uint8]:
    """Return the SHA-256 of each file, [N, 32] uint8, from the cache where nothing has changed.

    Raises:
        KdctlError: files that cannot be read or are no images; all are counted.
    """
    where = hashlib.sha256(os.fsencode(f"{_CHECKS} {listing.folder.resolve()}")).hexdigest()
    manifest = _Manifest(listing, cache / f"manifest-{where}.npz")
    missing = manifest.missing()
    if len(missing):
        _check_files(listing, manifest, missing)
    return manifest.digests


class _Manifest:
    """The hashes of a listing's files, as far as they are known."""

    def __init__(self, listing: ImageListing, path: Path) -> None:
        self._listing, self._path = listing, path
        self.digests = np.zeros((len(listing), 32), dtype=np.uint8)
        self._known = np.zeros(len(listing), dtype=np.bool_)
        self._read()

    def missing(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~self._known)

    def add(self, row: int, digest: bytes) -> None:
        self.digests[row] = np.frombuffer(digest, dtype=np.uint8)
        self._known[row] = True

    def save(self) -> None:
        """Write what is known; a cache that cannot be written only costs time."""
        listing, rows = self._listing, self._known
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                np.savez(
                    file,
                    names=listing.names.text,
                    known=rows,
                    num_bytes=listing.num_bytes,
                    modified_ns=listing.modified_ns,
                    digests=self.digests,
                )
            part.replace(self._path)
        except OSError as error:
            _log.info("the hashes of %s are not kept: %s", listing.folder, error)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                names, known, digests = stored["names"], stored["known"], stored["digests"]
                stamps = np.stack([stored["num_bytes"], stored["modified_ns"]], axis=1)
        except Exception:  # noqa: BLE001 - absent, damaged, or of no use: the files are read again
            return
        now = np.stack([self._listing.num_bytes, self._listing.modified_ns], axis=1)
        if np.array_equal(names, self._listing.names.text) and len(stamps) == len(now):
            same = known & (stamps == now).all(axis=1)
            self.digests[same] = digests[same]
            self._known = same
        else:
            rows = {name: row for row, name in enumerate(bytes(names).split(b"\0"))}
            for row, name in enumerate(self._listing.names):
                before = rows.get(os.fsencode(name), -1)
                if before >= 0 and known[before] and (stamps[before] == now[row]).all():
                    self.add(row, digests[before].tobytes())
        self._maybe_forget()

    def _maybe_forget(self) -> None:
        """Forget all hashes if the files are others, though of the same names, sizes and times."""
        rows = np.flatnonzero(self._known)
        for row in rows[probes(len(rows))].tolist():
            try:
                digest = hashlib.sha256(self._listing.content(row)).digest()
            except OSError:  # told when the image is needed
                continue
            if digest != self.digests[row].tobytes():
                self._known[:] = False
                return


def _check_files(listing: ImageListing, manifest: _Manifest, rows: npt.NDArray[np.int64]) -> None:
    """Read, hash and decode the files at `rows`."""

    def check(start: int) -> tuple[list[tuple[int, bytes]], list[str]]:
        """Return the digests of a chunk, and what is wrong with its files."""
        digests: list[tuple[int, bytes]] = []
        problems: list[str] = []
        for row in rows[start : start + _CHUNK].tolist():
            path = listing.folder / listing.names[row]
            try:
                content = listing.content(row)
                check_image(content, str(path))
                digests.append((row, hashlib.sha256(content).digest()))
            except UnreadableImageError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{path} ({error.strerror})")
        return digests, problems

    problems: list[str] = []
    report = progress_reporter(f"checking the images in {listing.folder}", len(rows))
    try:
        with decoding_threads() as pool, refusing_enormous_images():
            for done, (digests, found) in enumerate(pool.map(check, range(0, len(rows), _CHUNK)), 1):
                for row, digest in digests:
                    manifest.add(row, digest)
                problems += found
                if report(done * _CHUNK):
                    manifest.save()
    finally:  # also by Ctrl-C: the next command goes on from there
        manifest.save()
    if problems:
        raise KdctlError(
            f"{len(problems)} of {len(listing)} images in {listing.folder} cannot be used: "
            f"{some_of(problems)}.",
            "replace or remove these files; the others are not checked again.",
        )


def progress_reporter(what: str, total: int) -> Callable[[int], bool]:
    """Return what tells now and then how far something is, and whether it did."""
    began = last = time.monotonic()

    def report(done: int) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < SAVE_SECONDS:
            return False
        last = now
        minutes = (now - began) * (total - done) / max(done, 1) / 60
        _log.warning("%s: %d of %d, about %.0f minutes left", what, done, total, minutes)
        return True

    return report
