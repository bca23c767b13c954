"""Images scaled once and kept as bytes on the disk: read without decoding, and shared by all processes.

They lie in parts of 1,024 images: one file of pixels, and one of what each image is. Pixels are read, not
mapped into memory, where a file that is cut short ends the process. A part is written whole or not at all, so
a build that was stopped goes on where it was, and parts that are gone or damaged are made again. Nothing
depends on them: an image whose part is not there is decoded and scaled anew, with the same pixels.

Each image has a checksum, which is compared whenever it is read. That takes a fiftieth of the time that its
augmentation takes; to compare all when they are opened would read 340 GiB of ImageNet before the first step.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor

from kdctl.files import size_of
from kdctl.machine_errors import GOES_ON, MachineError, MachineFault, unwritable
from kdctl.protocols.dataset import ImageSource, Interpolation, Rows
from kdctl.readers.decoded_cache import probes
from kdctl.readers.image_manifest import SAVE_SECONDS, progress_reporter
from kdctl.readers.pixels import decoding_threads

_VERSION = "1"
"""Part of every folder's name; raise it when other pixels would be stored."""

_PART = 1024
"""Images in a part."""

_DAMAGED = ".damaged"
"""How the table of a part is called once an image of it did not fit its checksum."""

_SILENT_SECONDS = 5.0
"""How long to wait for another process before saying so."""

_LOOK_SECONDS = 0.5
"""Between two looks whether another process is done."""

_log = logging.getLogger(__name__)


class _Part(NamedTuple):
    """Some images, as they lie on the disk."""

    table: npt.NDArray[np.int64]
    """[N, 3]: height, width and checksum."""
    ends: npt.NDArray[np.int64]
    """[N]: where each image ends in the file of pixels, each [H, W, 3]."""


class ScaledImages:
    """Images of another source, their shorter side scaled down to a number of pixels and kept."""

    def __init__(
        self, source: ImageSource, rows: Rows, digests: npt.NDArray[np.uint8], *,
        side: int, interpolation: Interpolation, cache: Path,
    ) -> None:  # fmt: skip
        """Store nothing yet.

        Args:
            source: of the images as they are.
            rows: [N]: which of its images stands where here.
            digests: [N, 32] uint8: what tells each of them from others.
            side: of the shorter side, in pixels; a shorter one stays as it is.
            interpolation: how they are scaled, antialiased.
            cache: folder that all this is kept in.
        """
        self._source, self._rows = source, rows
        self._side = side
        self._interpolation: Interpolation = interpolation
        what = hashlib.sha256(f"{_VERSION} {side} {interpolation}".encode() + digests.tobytes()).hexdigest()
        self._folder = cache / f"scaled-{what[:32]}"
        self._open: dict[int, _Part] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, row: int) -> Tensor:
        """Return an image [3, H, W], uint8.

        Raises:
            OSError: it is not stored, and its file cannot be read.
            UnreadableImageError: it is not stored, and is no image any more.
        """
        number, place = divmod(row, _PART)
        part = self._open.get(number) or self._opened(number)
        if part is None:
            return self._scaled(row)
        self._open[number] = part
        height, width, checksum = part.table[place].tolist()
        size = height * width * 3
        pixels = _read(self._pixels_path(number), int(part.ends[place]) - size, size)
        if pixels is None or _checksum(pixels, height) != checksum:
            self._mark_damaged(number)
            return self._scaled(row)
        return torch.from_numpy(pixels).view(height, width, 3).permute(2, 0, 1)

    def prepare(self, rows: Iterable[int], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Store the images at `rows` and those of the same parts, as far as they are not; tell how far it is.

        Other processes that ask for it meanwhile wait. What `meanwhile` raises, which is called again and
        again, ends it; whole parts are kept.

        Raises:
            MachineError: the disk has no room for them, or may not be written.
            OSError: a file cannot be read.
            UnreadableImageError: a file is no image any more.
        """
        wanted = sorted({row // _PART for row in rows})
        if all(self._opened(number) for number in wanted):
            return
        with self._alone(meanwhile):
            for unfinished in self._folder.glob(".*.*-*"):  # of a process that was killed: only we write here
                unfinished.unlink(missing_ok=True)
            self._tell_damaged()
            missing = [number for number in wanted if self._opened(number) is None]
            if not missing:
                return
            self._require_room(missing)
            report = progress_reporter(f"scaling images into {self._folder}", len(missing))
            with decoding_threads() as pool:
                for done, number in enumerate(missing):
                    self._store(number, pool, meanwhile)
                    report(done + 1)

    def _alone(self, meanwhile: Callable[[], None]) -> BaseFileLock:
        """Return the folder's lock, taken once no other process has it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / ".lock")
            told = time.monotonic() + _SILENT_SECONDS - SAVE_SECONDS
            while True:
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=_LOOK_SECONDS)
                    return lock
                meanwhile()
                if time.monotonic() - told > SAVE_SECONDS:  # again and again: who is silent counts as dead
                    told = time.monotonic()
                    _log.warning("another process scales images into %s: waiting for it", self._folder)
        except OSError as error:
            raise unwritable(self._folder, error) from error

    def _mark_damaged(self, number: int) -> None:
        """Have a part made again, and that told, by who prepares next: workers have no terminal."""
        with contextlib.suppress(OSError):
            self._table_path(number).replace(self._folder / f"{number:06}{_DAMAGED}")

    def _tell_damaged(self) -> None:
        damaged = list(self._folder.glob(f"*{_DAMAGED}"))
        if damaged:
            _log.warning(
                "scaled images in %s did not fit their checksums and are made again; no number is wrong, for "
                "they were decoded anew where they were read, but the disk may be failing", self._folder,
            )  # fmt: skip
        for path in damaged:
            path.unlink(missing_ok=True)

    def _require_room(self, missing: Sequence[int]) -> None:
        """Refuse to begin where there is no room for the parts that are missing, judged by a few images."""
        rows = [row for number in missing for row in self._rows_of(number)]
        few = [self._scaled(rows[place]).numel() for place in probes(len(rows))]
        needed = len(rows) * sum(few) / len(few)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            others = [path for path in self._folder.parent.glob("scaled-*/*") if path.parent != self._folder]
            kept = sum(size_of(path) for path in others)
            spare = f" ({kept / 1e9:,.2f} GB of other scaled images beside it may be deleted)" if kept else ""
            fault = MachineFault(
                problem=f"scaled images take about {needed / 1e9:,.2f} GB in {self._folder}, where "
                f"{free / 1e9:,.2f} GB are free.",
                hint=f"make room{spare}, lower data.stored_side, or leave it out; with room {GOES_ON}",
            )
            raise MachineError(fault)

    def _rows_of(self, number: int) -> range:
        return range(number * _PART, min((number + 1) * _PART, len(self)))

    def _scaled(self, row: int) -> Tensor:
        """Return an image as it is stored."""
        # torchvision takes two seconds to import, which reading what is stored need not spend.
        from kdctl.readers.framing import scaled_down  # noqa: PLC0415

        image = self._source.read(int(self._rows[row]))
        return scaled_down(image, self._side, self._interpolation)

    def _store(self, number: int, pool: ThreadPoolExecutor, meanwhile: Callable[[], None]) -> None:
        table: list[tuple[int, int, int]] = []
        with _written_whole(self._pixels_path(number)) as path, path.open("wb") as file:
            for image in pool.map(self._scaled, self._rows_of(number)):
                meanwhile()
                pixels = image.permute(1, 2, 0).contiguous().numpy()
                height, width, _ = pixels.shape
                table.append((height, width, _checksum(pixels, height)))
                file.write(pixels.tobytes())
        with _written_whole(self._table_path(number)) as path, path.open("wb") as file:
            np.save(file, np.array(table, dtype=np.int64))

    def _opened(self, number: int) -> _Part | None:
        """Return a part that is stored; None if it is not, is damaged, or has no checksums yet."""
        try:
            with self._table_path(number).open("rb") as file:
                table: npt.NDArray[np.int64] = np.load(file, allow_pickle=False)
            if table.shape != (len(self._rows_of(number)), 3) or table.dtype != np.int64:
                return None
            ends = np.cumsum(table[:, 0] * table[:, 1] * 3)
            size = self._pixels_path(number).stat().st_size
        except Exception:  # noqa: BLE001 - absent, or damaged in whatever way: it is made again
            return None
        return _Part(table=table, ends=ends) if size == ends[-1] else None

    def _pixels_path(self, number: int) -> Path:
        return self._folder / f"{number:06}.bin"

    def _table_path(self, number: int) -> Path:
        return self._folder / f"{number:06}.npy"


def _read(path: Path, begin: int, size: int) -> npt.NDArray[np.uint8] | None:
    """Return bytes of a file; None if it has not so many, is gone, or its disk does not give them."""
    try:
        if size > path.stat().st_size:  # as a damaged table says, and memory may not hold it
            return None
        pixels = np.fromfile(path, dtype=np.uint8, count=size, offset=begin)
    except (OSError, ValueError):  # the latter where the image would begin before the file
        return None
    return pixels if len(pixels) == size else None


def _checksum(pixels: npt.NDArray[np.uint8], height: int) -> int:
    """Return the CRC-32 of an image's bytes, which depends on its shape, too."""
    return zlib.crc32(pixels.data, height)


@contextlib.contextmanager
def _written_whole(path: Path) -> Generator[Path]:
    """Give a file to write, which takes its name once it is complete."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(descriptor)
    try:
        yield Path(name)
        Path(name).replace(path)
    except OSError as error:
        if error.filename is None:  # a disk that refuses a write does not say of which file
            raise unwritable(path, error) from error
        raise
    finally:
        Path(name).unlink(missing_ok=True)
