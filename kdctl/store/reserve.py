"""Room that is put by, so that a full disk does not keep the database from noting where runs stand."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NUM_BYTES = 2**20
"""Enough to note the end of some thirty runs."""

_NAME = ".reserve"


def keep_reserve(root: Path) -> None:
    """Take the room in the folder `root`, unless it is taken; where that cannot be, do without."""
    path = root / _NAME
    with contextlib.suppress(OSError):
        if not path.is_file() or path.stat().st_size < NUM_BYTES:
            path.write_bytes(os.urandom(NUM_BYTES))  # zeros would take no room on disks that compress


def spend_reserve(root: Path) -> None:
    """Give the room back: somebody has something to note, or nobody is at work any more."""
    with contextlib.suppress(OSError):
        (root / _NAME).unlink(missing_ok=True)
