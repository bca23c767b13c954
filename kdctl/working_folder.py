"""The folder that relative paths begin in, which code of others may leave."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path


def standing_in() -> Path | None:
    """Return the working folder; None if it is gone."""
    try:
        return Path.cwd()
    except OSError:
        return None


def return_to(folder: Path | None) -> None:
    """Go back to a folder, if it is known and is not the working folder."""
    if folder is not None and standing_in() != folder:
        os.chdir(folder)


@contextlib.contextmanager
def kept_working_folder() -> Generator[None]:
    """Go back at the end to where we stand now."""
    here = standing_in()
    try:
        yield
    finally:
        return_to(here)
