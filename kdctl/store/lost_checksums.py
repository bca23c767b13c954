"""Whether records of a run have lost the checksums that they were written with.

kdctl 0.2.0 wrote none, and its runs are read all the same. So what stands beside a record tells whether it
had one: plan and environment are written when a run starts, then epochs, then the result. What was written
after a record that has a checksum was not written by an earlier version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from kdctl.errors import Mistake
from kdctl.store.folder import RunFolder
from kdctl.store.folder_records import TRAIN_AGAIN, RecordFile
from kdctl.store.json_files import complete_lines, first_without_checksum, has_checksum

_SINGLE = (RecordFile.PLAN, RecordFile.ENVIRONMENT, RecordFile.RESULT, RecordFile.FAILURE)
"""Files that hold one record each."""

_LINES = (RecordFile.EPOCHS, RecordFile.EVALUATIONS)
"""Files with one record a line."""


def lost_checksums(folder: RunFolder) -> Iterator[Mistake]:
    """Name the records of a run that have no checksum, beside others that tell that they had one.

    Each start writes plan and environment anew. Epochs from before that start, and evaluations of a run that
    had ended before, may lack theirs.

    Args:
        folder: of the run; a snapshot, where other records of it are read too.

    Raises:
        KdctlError: a file cannot be read.
    """
    found = {file: folder.content(file) or b"" for file in _SINGLE}
    found |= {file: complete_lines(folder.content(file) or b"") for file in _LINES}
    has = {file: has_checksum(content) for file, content in found.items()}
    is_ours = has[RecordFile.ENVIRONMENT] or has[RecordFile.RESULT] or has[RecordFile.EPOCHS]
    if is_ours or (has[RecordFile.PLAN] and found[RecordFile.RESULT]):
        for file in _SINGLE:
            if not has[file] and _is_record(found[file]):
                yield _lost(folder, f"{file} is damaged: its checksum is missing")
    for file in _LINES:
        may_begin_later = file is RecordFile.EPOCHS or not has[RecordFile.RESULT]
        number = first_without_checksum(found[file], may_begin_later=may_begin_later)
        if number and _is_record(found[file].split(b"\n")[number - 1]):
            yield _lost(folder, f"{file} is damaged: the checksum of line {number} is missing")


def _is_record(content: bytes) -> bool:
    """Return whether it reads well; whoever reads what does not names it."""
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def _lost(folder: RunFolder, what: str) -> Mistake:
    return Mistake(problem=f"{folder.path}/{what}.", hint=TRAIN_AGAIN.format(folder.key))
