"""The folder that relative paths begin in, which code of others may leave."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple


class WorkingFolder(NamedTuple):
    """A folder in which this process stood."""

    path: Path
    """Where it was then."""
    device: int
    inode: int
    """These stay the same when the folder is moved; who stands in it goes on standing there."""


def standing_in() -> WorkingFolder | None:
    """Return the working folder; None if it is gone."""
    try:
        path, status = Path.cwd(), Path.cwd().stat()
    except OSError:
        return None
    return WorkingFolder(path=path, device=status.st_dev, inode=status.st_ino)


def return_to(folder: WorkingFolder | None) -> None:
    """Go back to a folder, if it is known and is not the working folder, wherever that was moved."""
    here = standing_in()
    if folder is not None and (here is None or here[1:] != folder[1:]):
        os.chdir(folder.path)


@contextlib.contextmanager
def kept_working_folder() -> Generator[None]:
    """Go back at the end to where we stand now."""
    here = standing_in()
    try:
        yield
    finally:
        return_to(here)
