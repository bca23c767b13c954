"""Files that are written whole or not at all, whatever is killed when."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from kdctl.machine_errors import unwritable

_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
"""What file systems answer that sync files but no folders, such as those that a virtual machine shares."""


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `content`: a reader sees the old file or the new one, never a part.

    The folder is made if need be, and goes again if the file cannot be written. A writer that is killed may
    leave a hidden `.tmp` file behind. What is not `durable` may be lost in a power cut, and is written at
    once.

    Raises:
        MachineError: the disk is full, or may not be written.
    """
    with written_together(durable=durable) as write:
        write(path, content)


@contextlib.contextmanager
def written_together(*, durable: bool = True) -> Generator[Callable[[Path, bytes | Iterable[bytes]], None]]:
    """Give a function that writes files, as `write_atomically` does; all appear at the end, or none does.

    What is too large to be held at once may be given in parts.

    Raises:
        MachineError: the disk is full, or one may not be written.
    """
    temporaries: dict[Path, Path] = {}
    made: list[Path] = []

    def write(path: Path, content: bytes | Iterable[bytes]) -> None:
        temporaries[path] = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with _explained(path):
            made[:0] = _missing_folders(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = [content] if isinstance(content, bytes) else content
            _write(temporaries[path], parts, durable=durable)

    try:
        yield write
        for path, temporary in temporaries.items():
            with _explained(path):
                temporary.replace(path)
    except BaseException:
        _undo(temporaries.values(), made)
        raise
    if durable:
        for folder in {path.parent for path in temporaries}:
            with _explained(folder):
                _sync_folder(folder)


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def _missing_folders(path: Path) -> list[Path]:
    """Return the folders above a file that are not there, the deepest first."""
    missing: list[Path] = []
    for folder in path.parents:
        if folder.exists():
            break
        missing.append(folder)
    return missing


def _write(path: Path, parts: Iterable[bytes], *, durable: bool) -> None:
    with path.open("xb") as file:
        file.writelines(parts)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _undo(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Remove files that may be there, then folders that are empty, the deepest first."""
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the file system knows how."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be written that must not be listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)
