"""Copies of the folders of runs that have ended, for a paper, a colleague or another machine.

A copy is made in a hidden folder and renamed at its end: it is there whole, or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdctl.errors import KdctlError
from kdctl.files import is_gone, open_file, unreadable
from kdctl.machine_errors import unwritable
from kdctl.records import Artifact
from kdctl.store.atomic import write_atomically, written_together
from kdctl.store.folder import FolderSnapshot, RunFolder
from kdctl.store.folder_records import RecordFile
from kdctl.store.integrity import contradictions
from kdctl.store.json_files import line_like

_COPYING = ".copying-"
"""Begins the name of a folder that is not complete; a copy that was killed leaves it, the next removes it."""

_ANOTHER_WAY = "restore it from a copy, or copy without --checkpoints."

_PART = 1 << 20
"""Bytes that are read of a checkpoint at once."""


def copy_run(folder: RunFolder, root: Path, *, checkpoints: bool) -> bool:
    """Copy the folder of a run that has ended to `root`; return False if all of it lies there already.

    To a copy, evaluations that came later are added.

    Args:
        folder: of the run.
        root: the folder to which the run's own is added; made if need be.
        checkpoints: copy the files of its models, too. Without them the copy's result names none.

    Raises:
        KdctlError: files of the run cannot be read, are damaged, or do not agree; or `root` holds something
            else of this run.
        MachineError: `root` cannot be written.
    """
    source, copy = FolderSnapshot(folder), RunFolder(root, folder.key)
    source.plan()
    if mistakes := contradictions(source):
        raise KdctlError(mistakes[0].problem, mistakes[0].hint)
    records = {name: content for name in _COPIED if (content := source.content(name)) is not None}
    artifacts = source.artifacts() if checkpoints else ()
    ending = source.ending()
    if ending is not None and ending.artifacts != artifacts:
        shorter = dataclasses.replace(ending, artifacts=artifacts)
        records[RecordFile.RESULT] = line_like(records[RecordFile.RESULT], shorter)
    if not is_gone(copy.path):
        return _add_evaluations(copy, records)
    with _appearing(copy.path) as hidden, written_together() as write:
        for name, content in records.items():
            write(hidden / name, content)
        for artifact in artifacts:
            write(hidden / artifact.name, _checked(source.path / artifact.name, artifact))
    return True


_COPIED = tuple(name for name in RecordFile if name is not RecordFile.HOLDER)
"""All records but the one that says who works there."""


def _add_evaluations(copy: RunFolder, records: dict[RecordFile, bytes]) -> bool:
    """Add to a copy the evaluations that it lacks; return whether there are any.

    Raises:
        KdctlError: the folder holds other records than these, or they cannot be read.
    """
    known = {name: content for name in _COPIED if (content := copy.content(name)) is not None}
    before = known.pop(RecordFile.EVALUATIONS, b"")
    now = records.get(RecordFile.EVALUATIONS, b"")
    rest = {name: content for name, content in records.items() if name is not RecordFile.EVALUATIONS}
    if known != rest or not now.startswith(before):
        raise KdctlError(
            f"{copy.path} is there, and is no copy of run {copy.key} as it is, or has other models of it.",
            "copy to another folder, or move that one away first.",
        )
    if now != before:
        write_atomically(copy.path / RecordFile.EVALUATIONS, now)
    return now != before


@contextmanager
def _appearing(path: Path) -> Generator[Path]:
    """Give a hidden folder to fill, which becomes `path` at the end; if that fails, nothing is left."""
    hidden = path.with_name(f"{_COPYING}{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        yield hidden
        hidden.rename(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _checked(path: Path, artifact: Artifact) -> Iterator[bytes]:
    """Yield a file in parts.

    Raises:
        KdctlError: it cannot be read, or is not what the run left behind.
    """
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            while part := file.read(_PART):
                digest.update(part)
                yield part
    except FileNotFoundError as error:
        raise KdctlError(f"{path} is gone.", _ANOTHER_WAY) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if digest.hexdigest() != artifact.sha256:
        raise KdctlError(
            f"{path} is damaged: it is not what its run left behind.",
            _ANOTHER_WAY,
        )
