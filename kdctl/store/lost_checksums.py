"""Whether records of a run have lost the checksums that they were written with.

kdctl 0.2.0 wrote none, and its runs are read all the same. So what stands beside a record tells whether it
had one: plan and environment are written when a run starts, then epochs, then the result. What was written
after a record that has a checksum was not written by an earlier version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from kdctl.errors import Mistake
from kdctl.files import read_file, unreadable
from kdctl.store.folder import RunFolder
from kdctl.store.json_files import LARGEST_FILE, first_without_checksum, has_checksum

_PLAN, _ENVIRONMENT, _RESULT, _FAILURE = "plan.json", "environment.json", "result.json", "failure.json"
_EPOCHS, _EVALUATIONS = "epochs.jsonl", "evaluations.jsonl"
HINT = "restore the file from a copy, or remove the run and train it again: `kdctl runs rm {}`."
"""What to do about a file of a run, given its key."""


def lost_checksums(folder: RunFolder, epoch_lines: bytes) -> Iterator[Mistake]:
    """Name the records of a run that have no checksum, beside others that tell that they had one.

    Each start writes plan and environment anew. Epochs from before that start, and evaluations of a run that
    had ended before, may lack theirs.

    Args:
        folder: of the run.
        epoch_lines: of its epochs.jsonl.

    Raises:
        KdctlError: a file cannot be read.
    """
    found = {name: _content(folder, name) for name in (_PLAN, _ENVIRONMENT, _RESULT, _FAILURE, _EVALUATIONS)}
    has = {name: has_checksum(content) for name, content in found.items()}
    is_ours = has[_ENVIRONMENT] or has[_RESULT] or has_checksum(epoch_lines)
    if is_ours or (has[_PLAN] and found[_RESULT]):
        for name in (_PLAN, _ENVIRONMENT, _RESULT, _FAILURE):
            if not has[name] and _is_record(found[name]):
                yield _lost(folder, f"{name} is damaged: its checksum is missing")
    for name, content in ((_EPOCHS, epoch_lines), (_EVALUATIONS, found[_EVALUATIONS])):
        number = first_without_checksum(content, may_begin_later=name == _EPOCHS or not has[_RESULT])
        if number and _is_record(content.split(b"\n")[number - 1]):
            yield _lost(folder, f"{name} is damaged: the checksum of line {number} is missing")


def _content(folder: RunFolder, name: str) -> bytes:
    path = folder.path / name
    try:
        return read_file(path, at_most=LARGEST_FILE)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise unreadable(path, error) from error


def _is_record(content: bytes) -> bool:
    """Return whether it reads well; whoever reads what does not names it."""
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def _lost(folder: RunFolder, what: str) -> Mistake:
    return Mistake(problem=f"{folder.path}/{what}.", hint=HINT.format(folder.key))
