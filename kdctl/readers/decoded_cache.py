"""A cache of decoded images: tens of thousands of small files take a while, one array does not.

Nothing depends on it: a folder that cannot be written or an entry that is damaged only costs time,
and it may be deleted at any moment.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import Split

_PROBES = 16
"""Of a set of files, at most so many are read to see that they are those that something was kept of."""


def probes(count: int) -> list[int]:
    """Return places among `count` files, evenly spread, whose content tells two sets of files apart.

    Names, sizes and times alone do not: files of a format without compression are all of the same size, and
    archives that are made reproducibly give all of their files the same time.
    """
    return np.linspace(0, count - 1, min(count, _PROBES)).astype(np.int64).tolist()


def user_cache() -> Path:
    """Return the folder of this user's decoded images.

    A user of a container who has no home folder gets one among the temporary files.

    Raises:
        KdctlError: somebody else has taken its name there.
    """
    try:
        return platformdirs.user_cache_path("kdctl") / "decoded"
    except RuntimeError:  # HOME is not set, and the system knows no such user
        folder = Path(tempfile.gettempdir()) / f"kdctl-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise KdctlError(
            f"{folder} belongs to somebody else.", "set HOME or XDG_CACHE_HOME to a folder of yours."
        )
    return folder / "decoded"


def cached(key: str, decode: Callable[[], Split], *, folder: Path) -> Split:
    """Return the split stored as `key` below `folder`, else decode and store it."""
    path = folder / f"{key}.npz"
    stored = _read(path)
    if stored is not None:
        return stored
    split = decode()
    # A full disk or a home that is read-only on compute nodes is no reason to stop.
    with contextlib.suppress(OSError):
        _write(path, split)
    return split


def _read(path: Path) -> Split | None:
    """Return what is stored; None when there is nothing or it is damaged (the zip has checksums).

    What a flipped bit makes of the zip's own tables may raise anything: "the file is encrypted", say.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Split(images=arrays["images"], labels=arrays["labels"])
    except Exception:  # noqa: BLE001 - whatever it was, the files are decoded again
        return None


def _write(path: Path, split: Split) -> None:
    """Write beside the target and rename, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, images=split.images, labels=split.labels)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
