"""Reading files that anybody may have put there: never waiting, never more than asked for.

`open` on a named pipe waits for a writer for ever, a device may answer without end, and a name with a NUL
raises `ValueError`. Here all of that is an `OSError` that says what lies there, like a missing permission.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from kdctl.errors import KdctlError

_KINDS = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a named pipe",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFCHR: "it is a device",
    stat.S_IFBLK: "it is a device",
}


class UnreadableError(KdctlError):
    """A file is there, and cannot be read; what it says is not known, nor that it is lost."""


SAFETENSORS = ".safetensors"

WEIGHT_SUFFIXES = (".pt", ".pth", ".th", SAFETENSORS, ".tar", ".ckpt", ".bin")
"""Of a file, though it is not there: then that is what has to be said."""


def at_home(path: str, field: str) -> str:
    """Return what a field names with `~` replaced by the folder it stands for, as shells do it.

    Raises:
        KdctlError: nobody knows which folder that is.
    """
    found = os.path.expanduser(path)  # noqa: PTH111 - a path would lose the ./ by which it is no name
    if found.startswith("~"):
        raise KdctlError(
            f"{field} = '{path}' begins with a home folder that is not known.", "write the path in full."
        )
    return found


_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        FileNotFoundError: there is none.
        OSError: it may not be read, is something else than a file, or has a name that no file can have.
    """
    try:
        _require_file(os.stat(path), path)  # noqa: PTH116 - a name with a NUL must raise alike on every version
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL, or letters that the file system has no bytes for
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    except FileNotFoundError as error:
        if path.is_symlink():  # what it pointed to is lost, and was not never there
            raise OSError(errno.EINVAL, "it is a link that points nowhere", str(path)) from error
        raise
    try:
        _require_file(os.fstat(descriptor), path)  # it may have been replaced since
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path, *, at_most: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        at_most: bytes; a larger one is refused before it is read.

    Raises:
        FileNotFoundError: there is none.
        OSError: as `open_file`, or it is too large.
    """
    with open_file(path) as file:
        if at_most is not None and (size := os.fstat(file.fileno()).st_size) > at_most:
            raise OSError(
                errno.EINVAL, f"it has {size:,} bytes, and {at_most:,} are the most it should", str(path)
            )
        return file.read()


def unreadable(path: Path, error: OSError) -> UnreadableError:
    """Say why a file that is there cannot be read. It is no reason to remove anything."""
    allowed = (
        "allow reading it" if error.errno in (errno.EACCES, errno.EPERM) else "move away what lies there"
    )
    return UnreadableError(
        f"{path} cannot be read: {error.strerror or error}.", f"{allowed}, or restore the file from a copy."
    )


def is_gone(path: Path) -> bool:
    """Return whether there is nothing at `path`; False also where nobody may look."""
    try:
        os.stat(path)  # noqa: PTH116 - as above
    except OSError as error:
        return error.errno in _GONE
    except ValueError:
        return True
    return False


def resolved(path: Path) -> Path:
    """Return where a path leads from the root; links that go round in a circle stay as they are.

    Before Python 3.13 `Path.resolve` raises for these.
    """
    return Path(os.path.realpath(path))


def is_file(path: Path) -> bool:
    """Return whether a regular file is at `path`, as far as anybody may look; never raises."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - as above
    except (OSError, ValueError):
        return False


def size_of(path: Path) -> int:
    """Return the bytes of a regular file; 0 for anything else, and for what nobody may look at."""
    try:
        status = os.stat(path)  # noqa: PTH116 - as above
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _require_file(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "it is no file")
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))


def sqlite_path(path: Path) -> str:
    """Return a path so that SQLite takes it for one: `file:runs/kdctl.db` may be a URI to it."""
    name = os.fspath(path)
    return f"./{name}" if name.startswith("file:") else name
