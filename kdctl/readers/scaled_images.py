"""Images scaled once and kept as bytes on the disk: read without decoding, and shared by all processes.

They lie in parts of 1,024 images: one file of pixels, which is mapped into memory, and one of sizes. A part
is written whole or not at all, so a build that was stopped goes on where it was, and parts that are gone or
damaged are made again. Nothing depends on them: an image whose part is not there is decoded and scaled anew,
with the same pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from kdctl.machine_errors import GOES_ON, MachineError, MachineFault, unwritable
from kdctl.protocols.dataset import ImageSource, Interpolation, Rows
from kdctl.readers.image_manifest import progress_reporter

_VERSION = "1"
"""Part of every folder's name; raise it when other pixels would be stored."""

_PART = 1024
"""Images in a part."""

_ASPECT = 1.5
"""Longer side of a photograph by its shorter one, about: for a guess at what the disk must have room for."""


class _Part(NamedTuple):
    """Some images, as they lie on the disk."""

    pixels: npt.NDArray[np.uint8]
    """All bytes, one image after the other, each [H, W, 3]."""
    sizes: npt.NDArray[np.int64]
    """[N, 2]: height and width."""
    ends: npt.NDArray[np.int64]
    """[N]: where each image ends."""


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
        height, width = part.sizes[place]
        pixels = part.pixels[int(part.ends[place]) - int(height * width) * 3 : int(part.ends[place])]
        return torch.from_numpy(np.array(pixels)).view(int(height), int(width), 3).permute(2, 0, 1)

    def prepare(self, rows: Iterable[int]) -> None:
        """Store the images at `rows` and those of the same parts, as far as they are not; tell how far it is.

        Other processes that ask for it meanwhile wait.

        Raises:
            MachineError: the disk has no room for them, or may not be written.
            OSError: a file cannot be read.
            UnreadableImageError: a file is no image any more.
        """
        wanted = sorted({row // _PART for row in rows})
        if all(self._opened(number) for number in wanted):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / ".lock").acquire()
        except OSError as error:
            raise unwritable(self._folder, error) from error
        with lock:
            for unfinished in self._folder.glob(".*.*-*"):  # of a process that was killed: only we write here
                unfinished.unlink(missing_ok=True)
            missing = [number for number in wanted if self._opened(number) is None]
            self._require_room(len(missing))
            report = progress_reporter(f"scaling images into {self._folder}", len(missing))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for done, number in enumerate(missing):
                    self._store(number, pool)
                    report(done + 1)

    def _require_room(self, num_parts: int) -> None:
        needed = num_parts * _PART * self._side**2 * 3 * _ASPECT
        free = shutil.disk_usage(self._folder).free
        if num_parts > 1 and free < needed:
            fault = MachineFault(
                problem=f"scaled images take about {needed / 1e9:,.2f} GB in {self._folder}, where "
                f"{free / 1e9:,.2f} GB are free.",
                hint=f"make room, lower data.stored_side, or leave it out; with room {GOES_ON}",
            )
            raise MachineError(fault)

    def _scaled(self, row: int) -> Tensor:
        """Return an image as it is stored."""
        # torchvision takes two seconds to import, which reading what is stored need not spend.
        from kdctl.readers.framing import scaled_down  # noqa: PLC0415

        image = self._source.read(int(self._rows[row]))
        return scaled_down(image, self._side, self._interpolation)

    def _store(self, number: int, pool: ThreadPoolExecutor) -> None:
        first = number * _PART
        sizes: list[tuple[int, int]] = []
        with _written_whole(self._pixels_path(number)) as path, path.open("wb") as file:
            for image in pool.map(self._scaled, range(first, min(first + _PART, len(self)))):
                pixels = image.permute(1, 2, 0).contiguous()
                sizes.append((pixels.shape[0], pixels.shape[1]))
                file.write(pixels.numpy().tobytes())
        with _written_whole(self._sizes_path(number)) as path, path.open("wb") as file:
            np.save(file, np.array(sizes, dtype=np.int64))

    def _opened(self, number: int) -> _Part | None:
        """Return a part that is stored; None if it is not, or is damaged."""
        count = min(_PART, len(self) - number * _PART)
        try:
            with self._sizes_path(number).open("rb") as file:
                sizes: npt.NDArray[np.int64] = np.load(file, allow_pickle=False)
            if sizes.shape != (count, 2):
                return None
            ends = np.cumsum(sizes[:, 0] * sizes[:, 1] * 3)
            pixels = np.memmap(self._pixels_path(number), dtype=np.uint8, mode="r")
        except (OSError, ValueError, EOFError):
            return None
        return _Part(pixels=pixels, sizes=sizes, ends=ends) if len(pixels) == ends[-1] else None

    def _pixels_path(self, number: int) -> Path:
        return self._folder / f"{number:06}.bin"

    def _sizes_path(self, number: int) -> Path:
        return self._folder / f"{number:06}.npy"


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
