"""The folder of a run: the truth about it. The database is only its index.

Nothing here needs the database, so that a compute node can write a folder on its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from kdctl.errors import KdctlError, Mistake
from kdctl.evaluation_records import Evaluation
from kdctl.files import is_gone, open_file, read_file, unreadable
from kdctl.records import Artifact, Environment, EpochResult, PlannedRun, RunResult
from kdctl.store.atomic import write_atomically
from kdctl.store.clock import utc_now
from kdctl.store.epoch_lines import in_order, parse_epochs, sha256_of
from kdctl.store.folder_records import TRAIN_AGAIN, Dropped, Ending, RecordFile, Whereabouts
from kdctl.store.json_files import (
    JsonLines,
    Record,
    complete_lines,
    has_checksum,
    line_like,
    line_of,
    parse_record,
    read_content,
)
from kdctl.store.leases import Lease, Owner

_KEY = re.compile(r"[0-9a-f]{16}")


class RunFolder:
    """Reads and writes the folder of one run; only the process that holds the run writes."""

    def __init__(self, root: Path, key: str) -> None:
        """Work in `root/key`, which is made with the first file."""
        self.key = key
        self.path = root / key
        self._epochs = JsonLines(
            self.path / RecordFile.EPOCHS, EpochResult, if_damaged=TRAIN_AGAIN.format(key)
        )
        evaluate_again = (
            f"restore the file from a copy, or delete the line: `kdctl eval {key}` writes another."
        )
        self._evaluations = JsonLines(
            self.path / RecordFile.EVALUATIONS, Evaluation, if_damaged=evaluate_again
        )

    def content(self, name: RecordFile) -> bytes | None:
        """Return what one of the files of records holds; None when there is no file.

        Raises:
            KdctlError: it cannot be read.
        """
        return read_content(self.path / name)

    def write_plan(self, run: PlannedRun) -> None:
        """Write what runs, with what the database needs to know the run again."""
        self._write(RecordFile.PLAN, run)

    def plan(self) -> PlannedRun:
        """Return what runs.

        Raises:
            KdctlError: there is no plan, it is damaged, or it is another run's.
        """
        run = self._read(RecordFile.PLAN, PlannedRun)
        if run is None:
            raise KdctlError(f"{self.path} has no plan.json.", "restore it, or name the folder of a run.")
        if run.key != self.key:
            hint = f"rename the folder to {run.key}."
            if not is_gone(self.path.parent / run.key):
                hint = f"{run.key} has a folder of its own: move this copy away, or swap their names back."
            raise KdctlError(f"{self.path} holds the plan of another run, {run.key}.", hint)
        return run

    def has_sealed_plan(self) -> bool:
        """Return whether the plan has a checksum, with which it was read; earlier versions wrote none."""
        return has_checksum(self.content(RecordFile.PLAN) or b"")

    def write_environment(self, environment: Environment) -> None:
        """Write where and with what the run is computed."""
        self._write(RecordFile.ENVIRONMENT, Whereabouts.of(environment, run=self.key))

    def environment(self) -> Environment | None:
        """Return where and with what the run was computed, once that is written.

        Raises:
            KdctlError: it cannot be read, is damaged, or is another run's.
        """
        known = self._read(RecordFile.ENVIRONMENT, Whereabouts)
        if known is not None and known.run not in ("", self.key):
            raise KdctlError(
                f"{self.path / RecordFile.ENVIRONMENT} is damaged: it speaks of another run, {known.run}.",
                "restore the file from a copy, or delete the folder and run it again.",
            )
        return known and known.environment()

    def append_epoch(self, epoch: EpochResult) -> None:
        """Add an epoch; it is on disk when this returns."""
        self._epochs.append(epoch)

    def epochs(self) -> list[EpochResult]:
        """Return the epochs in their order; of one that was repeated, the latest."""
        try:
            return parse_epochs(self.epoch_lines())
        except ValueError:  # reading line by line tells which one is at fault
            return in_order(self._epochs.parse(self.epoch_lines()))

    def epoch_lines(self) -> bytes:
        """Return the epochs as they were written, so that a younger kdctl finds the same SHA-256."""
        return complete_lines(self.content(RecordFile.EPOCHS) or b"")

    def is_past(self, epoch: int | None) -> bool:
        """Return whether the run has an epoch behind it; never past None, its end."""
        return epoch is not None and any(known.epoch >= epoch for known in self._epochs.read())

    def truncate_epochs(self, after_epoch: int) -> None:
        """Keep the epochs up to `after_epoch`: the run goes on from there."""
        known = self._epochs.read()
        kept = [epoch for epoch in known if epoch.epoch <= after_epoch]
        if len(kept) < len(known):
            self._epochs.rewrite(kept)

    def write_result(self, result: RunResult, artifacts: Sequence[Artifact] = ()) -> None:
        """Write how the run ended and what it left behind. Before this, it has not ended."""
        ending = Ending(
            result=result,
            artifacts=tuple(artifacts),
            run=self.key,
            epochs_sha256=sha256_of(self.epoch_lines()),
        )
        self._write(RecordFile.RESULT, ending)

    def ending(self) -> Ending | None:
        """Return all that is written of how the run ended, once it has."""
        return self._read(RecordFile.RESULT, Ending)

    def result(self) -> RunResult | None:
        """Return how the run ended, once it has."""
        return ending.result if (ending := self.ending()) else None

    def artifacts(self) -> tuple[Artifact, ...]:
        """Return the files that the run left behind; none before it ended."""
        return ending.artifacts if (ending := self.ending()) else ()

    def forget_artifacts(self, names: Collection[str]) -> None:
        """Take files out of what the run left behind; all else stays as it was written.

        A result without a checksum, from an earlier version, gets none: it would vouch for the other files.
        """
        ending = self.ending()
        kept = tuple(item for item in ending.artifacts if item.name not in names) if ending else ()
        if ending is not None and len(kept) < len(ending.artifacts):
            path, shorter = self.path / RecordFile.RESULT, dataclasses.replace(ending, artifacts=kept)
            write_atomically(path, line_like(read_file(path), shorter))

    def hold(self, owner: Owner, *, lease_seconds: float) -> None:
        """Say that `owner` works here, for so long from now.

        Who claimed the run in the database says so; a claim is decided there, not here.
        """
        lease = Lease(owner=owner, expires=utc_now(seconds_ahead=lease_seconds))
        write_atomically(self.path / RecordFile.HOLDER, line_of(lease), durable=False)

    def lease(self) -> Lease | None:
        """Return who works here, or did when they last said so."""
        return self._read(RecordFile.HOLDER, Lease)

    def let_go(self, owner: Owner) -> None:
        """Say that `owner` does not work here any more."""
        lease = self.lease()
        if lease is not None and lease.owner == owner:
            (self.path / RecordFile.HOLDER).unlink(missing_ok=True)

    def write_failure(self, failure: Mistake) -> None:
        """Write what stopped the run, and what to do about it."""
        self._write(RecordFile.FAILURE, failure)

    def failure(self) -> Mistake | None:
        """Return what stopped the run, if it failed."""
        return self._read(RecordFile.FAILURE, Mistake)

    def discard_failure(self) -> None:
        """Forget what stopped the run: it is tried again."""
        (self.path / RecordFile.FAILURE).unlink(missing_ok=True)

    def write_dropped(self, run: PlannedRun, reason: str) -> None:
        """Write why a sweep does not go on with the run, which may never have begun; not twice."""
        if is_gone(self.path / RecordFile.PLAN):
            self.write_plan(run)
        dropped = Dropped(reason=reason)
        if self.content(RecordFile.DROPPED) != line_of(dropped):
            self._write(RecordFile.DROPPED, dropped)

    def dropped(self) -> str:
        """Return why a sweep dropped the run; empty if none did, or if it was started after all."""
        known = self._read(RecordFile.DROPPED, Dropped)
        return known.reason if known else ""

    def discard_dropped(self) -> None:
        """Forget that a sweep dropped the run: it is started after all."""
        (self.path / RecordFile.DROPPED).unlink(missing_ok=True)

    def append_evaluation(self, evaluation: Evaluation) -> None:
        """Add a later look at the run's model."""
        self._evaluations.append(evaluation)

    def evaluations(self) -> list[Evaluation]:
        """Return the later looks at the run's model, oldest first.

        Raises:
            KdctlError: they cannot be read, are damaged, or are of another run's model.
        """
        found = self._evaluations.parse(self.content(RecordFile.EVALUATIONS) or b"")
        for evaluation in found:
            if evaluation.run_key != self.key:
                raise KdctlError(
                    f"{self._evaluations.path} is damaged: it speaks of another run, {evaluation.run_key}.",
                    "delete the lines of that run, or restore the file from a copy.",
                )
        return found

    def artifact(self, name: str) -> Artifact:
        """Return the file called `name` with its SHA-256 and its size.

        Raises:
            KdctlError: there is no such file, or it cannot be read.
        """
        path = self.path / name
        try:
            with open_file(path) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                return Artifact(name=name, sha256=sha256, num_bytes=os.fstat(file.fileno()).st_size)
        except FileNotFoundError as error:
            raise KdctlError(
                f"there is no file {path}.", "resume the run: it writes the file again."
            ) from error
        except OSError as error:
            raise unreadable(path, error) from error

    def _write(self, name: RecordFile, record: object) -> None:
        write_atomically(self.path / name, line_of(record))

    def _read(self, name: RecordFile, record: type[Record]) -> Record | None:
        hint = "restore the file from a copy, or delete the folder and run it again."
        content = self.content(name)
        return None if content is None else parse_record(self.path / name, content, record, if_damaged=hint)


class FolderSnapshot(RunFolder):
    """A run folder in which every file is what it was when it was first read, and is read once.

    For a look at all files of a run. It must not write: it would not see what it wrote.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Begin to look at `folder`."""
        super().__init__(folder.path.parent, folder.key)
        self._contents: dict[RecordFile, bytes | None] = {}

    def content(self, name: RecordFile) -> bytes | None:
        """Return what the file held when it was first read; None if there was no file."""
        if name not in self._contents:
            self._contents[name] = super().content(name)
        return self._contents[name]


def run_folders(root: Path) -> list[RunFolder]:
    """Return the run folders in `root`, by key: those that have a plan, and are not about to be removed.

    A folder that nobody may look into counts as one: it is not gone. So does one whose plan was lost.

    Raises:
        KdctlError: `root` itself may not be looked into.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(root, error) from error
    return [RunFolder(root, name) for name in names if _may_be_run(root / name)]


def _may_be_run(folder: Path) -> bool:
    plan = folder / RecordFile.PLAN
    is_lost = any(os.path.lexists(folder / name) for name in (RecordFile.RESULT, RecordFile.EPOCHS))
    return os.path.lexists(plan) or (bool(_KEY.fullmatch(folder.name)) and (is_lost or not is_gone(plan)))
