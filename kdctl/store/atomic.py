"""Files that are written whole or not at all, whatever is killed when."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from kdctl.machine_errors import unwritable


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `content`: a reader sees the old file or the new one, never a part.

    The folder is made if need be. A writer that is killed may leave a hidden `.tmp` file behind.
    What is not `durable` may be lost in a power cut, and is written at once.

    Raises:
        MachineError: the disk is full, or may not be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        raise unwritable(path, error) from error
    except BaseException:
        _remove(temporary)
        raise
    if durable:
        _sync_folder(path.parent)


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
