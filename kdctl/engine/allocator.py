"""How a process gets memory from the system."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
"""Names of settings in glibc's malloc.h."""

_LARGEST = 2**31 - 1
_LARGEST_BEFORE = 2**25
"""What mallopt takes for the second in a glibc older than 2.35."""


def keep_freed_memory() -> None:
    """Let the process keep what it frees, for its next step.

    As a rule glibc returns large blocks to the system at once, and a step takes them anew page by page: some
    ten thousand page faults, up to a tenth of the time (docs/log.md). Does nothing where there is no glibc.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        if not set_option(_MMAP_THRESHOLD, _LARGEST):
            set_option(_MMAP_THRESHOLD, _LARGEST_BEFORE)
        set_option(_TRIM_THRESHOLD, _LARGEST)
