"""Whether the files of a run folder agree: a number that was altered, or is another run's, is not read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdctl.errors import Mistake
from kdctl.evaluation_records import Evaluation
from kdctl.records import EpochResult, RunResult, RunState, Selected, Selection, SplitMetrics
from kdctl.serialization import from_tree, to_tree
from kdctl.store.epoch_lines import parse_trees, sha256_of
from kdctl.store.folder import RunFolder
from kdctl.store.folder_records import TRAIN_AGAIN, Ending, RecordFile
from kdctl.store.json_files import to_json
from kdctl.store.lost_checksums import lost_checksums
from kdctl.text import plural


@dataclass(frozen=True, kw_only=True)
class EndedRun:
    """Result and epochs of a run that has ended, as its folder has them; read once for several checks."""

    ending: Ending
    lines: bytes
    """Of its epochs.jsonl."""
    sha256: str
    """Of the lines."""
    epochs: Sequence[Mapping[str, Any]]
    """As plain trees, in their order."""
    is_as_written: bool
    """Whether the lines are those that the run wrote, as far as its result tells that."""


def read_ended_run(folder: RunFolder) -> EndedRun | None:
    """Read the result and the epochs of a folder; None of a run that has not ended.

    Where the result tells the SHA-256 of the epochs' lines, and it is right, they are not checked one by
    one: ten thousand runs have millions of them.

    Raises:
        KdctlError: a file cannot be read, or is damaged.
    """
    ending = folder.ending()  # before the epochs: once it is there, they do not change any more
    if ending is None:
        return None
    lines = folder.epoch_lines()
    sha256 = sha256_of(lines)
    is_as_written = ending.epochs_sha256 in ("", sha256)
    trees = parse_trees(lines) if ending.epochs_sha256 and is_as_written else None
    epochs = trees if trees is not None else [to_tree(epoch) for epoch in folder.epochs()]
    return EndedRun(ending=ending, lines=lines, sha256=sha256, epochs=epochs, is_as_written=is_as_written)


def contradictions(folder: RunFolder, ended: EndedRun | None = None) -> list[Mistake]:
    """Return what the files of a folder say against each other, and which have lost their checksums.

    Args:
        folder: of a run; a snapshot, if `ended` was read of it.
        ended: what `read_ended_run` returned, if it was called; None: it is called here.

    Raises:
        KdctlError: a file cannot be read, or is damaged.
    """
    found = ended or read_ended_run(folder)
    lost = list(lost_checksums(folder))
    return lost or ([] if found is None else _contradictions(folder, found))


def _contradictions(folder: RunFolder, found: EndedRun) -> list[Mistake]:
    if not found.is_as_written:
        problems: Iterable[str] = ["holds an epochs.jsonl that is not what the run wrote"]
    else:
        problems = _numbers(found.ending.result, found.epochs)
    if found.ending.run not in ("", folder.key):
        problems = [f"holds the result of another run, {found.ending.run}"]
    hint = TRAIN_AGAIN.format(folder.key)
    return [Mistake(problem=f"{folder.path} {problem}.", hint=hint) for problem in problems]


def lost_environment(folder: RunFolder, ended: EndedRun | None) -> list[Mistake]:
    """Return whether a run that has ended lost what tells where it trained; its numbers are good without.

    Raises:
        KdctlError: a file cannot be read.
    """
    if ended is None or not ended.ending.epochs_sha256 or folder.content(RecordFile.ENVIRONMENT) is not None:
        return []
    problem = f"{folder.path} has lost its {RecordFile.ENVIRONMENT}, which each run writes when it starts."
    return [Mistake(problem=problem, hint="restore it from a copy; the run's numbers are read without it.")]


def changed_epochs(folder: RunFolder, known: Sequence[EpochResult]) -> list[Mistake]:
    """Return whether a folder says something else of an epoch than what is known of it.

    A run that has not ended may have trained an epoch again since, in another time, for the same numbers.

    Raises:
        KdctlError: a file cannot be read, or is damaged.
    """
    told = _in_words if folder.ending() is not None else _numbers_in_words
    before = {epoch.epoch: told(epoch) for epoch in known}
    numbers = [
        str(epoch.epoch) for epoch in folder.epochs() if before.get(epoch.epoch, told(epoch)) != told(epoch)
    ]
    if not numbers:
        return []
    problem = f"{folder.path} says something else of epoch {', '.join(numbers)} than the database."
    hint = (
        "restore the one that was altered: epochs.jsonl from a copy, or the database from the run folders "
        "(move it away, then `kdctl sync`)."
    )
    return [Mistake(problem=problem, hint=hint)]


def changed_evaluations(
    folder: RunFolder, written: Sequence[Evaluation], known: Iterable[Evaluation]
) -> list[Mistake]:
    """Return whether a folder lacks an evaluation that is known, or has it with other numbers.

    Args:
        folder: of a run.
        written: its evaluations.
        known: what the database knows of them.
    """
    lost = [f"'{item.selection}' on {item.split}" for item in known if item not in written]
    if not lost:
        return []
    problem = f"{folder.path} says something else of the evaluation of {', '.join(lost)} than the database."
    hint = f"restore evaluations.jsonl from a copy, or evaluate again: `kdctl eval {folder.key}`."
    return [Mistake(problem=problem, hint=hint)]


def _in_words(epoch: EpochResult) -> str:
    return to_json(epoch)


def _numbers_in_words(epoch: EpochResult) -> str:
    timeless = dataclasses.replace(epoch, seconds=0.0, images_per_second=0.0, device_seconds=None, ended="")
    return to_json(timeless)


def _numbers(result: RunResult, epochs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Hold a result against the epochs that it was taken from."""
    if result.state is RunState.FINISHED and len(epochs) != result.epochs:
        yield f"holds {plural(len(epochs), 'epoch')}, its result.json says {result.epochs}"
        return
    for rule, selected in result.selected.items():
        if epochs and not _is_among(selected, epochs):
            yield f"says something else of '{rule}' in result.json than in epochs.jsonl"
    yield from _not_the_best(result, epochs)


def _not_the_best(result: RunResult, epochs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Find the last and the best epoch again."""
    last = result.selected.get(Selection.LAST.value)
    if last is not None and epochs and last.epoch != epochs[-1]["epoch"]:
        yield f"has its last epoch, {epochs[-1]['epoch']}, not as the last one in result.json"
    best = result.selected.get(Selection.BEST_TEST.value)
    phases = [epoch.get("phase", "") for epoch in epochs]
    accuracies = [
        float(epoch["test"]["top1"])
        for epoch, phase in zip(epochs, phases, strict=True)
        if phase == phases[-1]
    ]
    if best is not None and accuracies and best.test.top1 < max(accuracies):
        yield "has an epoch in epochs.jsonl that is better than the best one in result.json"


def _is_among(selected: Selected, epochs: Sequence[Mapping[str, Any]]) -> bool:
    """Compare as text: not-a-number is equal to itself there."""
    found = next((epoch for epoch in epochs if epoch["epoch"] == selected.epoch), None)
    if found is None:
        return False
    test, val = (
        None if found.get(split) is None else from_tree(SplitMetrics, found[split])
        for split in ("test", "val")
    )
    return str((test, val)) == str((selected.test, selected.val))
