"""Whether the files of a run folder agree: a number that was altered, or is another run's, is not read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kdctl.errors import Mistake
from kdctl.records import EpochResult, RunResult, RunState, Selected, Selection
from kdctl.serialization import to_tree
from kdctl.store.folder import RunFolder
from kdctl.store.json_files import to_json

_HINT = "restore the file from a copy, or remove the run and train it again: `kdctl runs rm {}`."


def contradictions(folder: RunFolder) -> list[Mistake]:
    """Return what the files of a folder say against each other; a run that has not ended says nothing.

    Raises:
        KdctlError: a file cannot be read, or is damaged.
    """
    ending = folder.ending()  # before the epochs: once it is there, they do not change any more
    if ending is None:
        return []
    epochs = folder.epochs()
    if ending.epochs_sha256 not in ("", folder.epochs_sha256()):
        problems: Iterable[str] = ["holds an epochs.jsonl that is not what the run wrote"]
    else:
        problems = _numbers(ending.result, epochs)
    if ending.run not in ("", folder.key):
        problems = [f"holds the result of another run, {ending.run}"]
    return [
        Mistake(problem=f"{folder.path} {problem}.", hint=_HINT.format(folder.key)) for problem in problems
    ]


def changed_epochs(folder: RunFolder, known: Sequence[EpochResult]) -> list[Mistake]:
    """Return whether an ended run's folder says something else of an epoch than what is known of it.

    Raises:
        KdctlError: a file cannot be read, or is damaged.
    """
    if folder.ending() is None:
        return []
    before = {epoch.epoch: to_json(epoch) for epoch in known}
    numbers = [
        str(epoch.epoch)
        for epoch in folder.epochs()
        if before.get(epoch.epoch, to_json(epoch)) != to_json(epoch)
    ]
    if not numbers:
        return []
    problem = f"{folder.path} says something else of epoch {', '.join(numbers)} than the database."
    return [Mistake(problem=problem, hint=_HINT.format(folder.key))]


def _numbers(result: RunResult, epochs: Sequence[EpochResult]) -> Iterator[str]:
    """Hold a result against the epochs that it was taken from."""
    if result.state is RunState.FINISHED and len(epochs) != result.epochs:
        yield f"holds {len(epochs)} epochs, its result.json says {result.epochs}"
        return
    for rule, selected in result.selected.items():
        if epochs and not _is_among(selected, epochs):
            yield f"says something else of '{rule}' in result.json than in epochs.jsonl"
    yield from _not_the_best(result, epochs)


def _not_the_best(result: RunResult, epochs: Sequence[EpochResult]) -> Iterator[str]:
    """Find the last and the best epoch again."""
    last = result.selected.get(Selection.LAST.value)
    if last is not None and epochs and last.epoch != epochs[-1].epoch:
        yield f"has its last epoch, {epochs[-1].epoch}, not as the last one in result.json"
    best = result.selected.get(Selection.BEST_TEST.value)
    accuracies = [epoch.test.top1 for epoch in epochs if epoch.phase == epochs[-1].phase]
    if best is not None and accuracies and best.test.top1 < max(accuracies):
        yield "has an epoch in epochs.jsonl that is better than the best one in result.json"


def _is_among(selected: Selected, epochs: Sequence[EpochResult]) -> bool:
    """Compare as text: not-a-number is equal to itself there."""
    found = next((epoch for epoch in epochs if epoch.epoch == selected.epoch), None)
    return found is not None and str(to_tree((found.test, found.val))) == str(
        to_tree((selected.test, selected.val))
    )
