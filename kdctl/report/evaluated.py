"""Configurations whose models `kdctl eval` has looked at, and how to have it look at others."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdctl.evaluation_records import Evaluation
from kdctl.records import Selection
from kdctl.report.fields import distinguishing_fields
from kdctl.report.figure import FigureData, NothingToDrawError
from kdctl.report.layout import Layout
from kdctl.report.replicates import Replicates
from kdctl.report.series import counted_groups, divide
from kdctl.report.wording import SELECTION_WORDS
from kdctl.text import plural


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A configuration with the evaluations of its runs."""

    name: str
    group: Replicates
    evaluations: tuple[Evaluation, ...]
    """One for each run that has any, in the order of the runs."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their labels as far as that is known."""
        return list(self.evaluations[0].class_names or self.evaluations[0].per_class_top1)


def evaluated_groups(data: FigureData, split: str, most: int, *, confusion: bool = False) -> list[Evaluated]:
    """Return the configurations with evaluations that know classes, the most accurate first.

    Those that know other classes than the most accurate one are left out.

    Args:
        data: the runs.
        split: on which the models were looked at.
        most: at most so many.
        confusion: only evaluations that know which classes were taken for which.

    Raises:
        NothingToDrawError: there are none.
    """
    fields = distinguishing_fields([run.plan for run in data.runs])
    found: list[Evaluated] = []
    for item in divide(counted_groups(data, fields), fields, None):
        evaluations = [
            evaluation
            for run in item.group.counted
            if (evaluation := _evaluation(data, run.key, split)) is not None
            and (_tells_confusion(evaluation) if confusion else evaluation.per_class_top1)
        ]
        if evaluations:
            found.append(Evaluated(name=item.name, group=item.group, evaluations=tuple(evaluations)))
    if not found:
        what = "which classes it takes for which" if confusion else "how it does on each class"
        raise NothingToDrawError(
            f"of no run is it known {what} on the {split} split ({SELECTION_WORDS[data.select]}).",
            f"evaluate them: kdctl eval {_subject(data)}{_options(data.select, split)}",
        )
    best = _best_first(found)
    same = [item for item in best if set(item.classes) == set(best[0].classes)]
    return same[:most]


def unevaluated_notes(groups: Sequence[Replicates], layout: Layout) -> Iterator[str]:
    """Say of how many runs a value that is asked for is not known, because nobody has evaluated them."""
    asked = [measure for measure in layout.values if measure.by_eval]
    runs = [run for group in groups for run in group.counted] if asked else []
    number = sum(layout.evaluations.get(run.key) is None for run in runs)
    if number:
        what = ", ".join(measure.title.partition(" (")[0] for measure in asked)
        known = f"Not evaluated: {number} of {plural(len(runs), 'run')}"
        yield f"{known}. `kdctl eval --sweep NAME{_options(layout.select)}` finds {what}."


def _tells_confusion(evaluation: Evaluation) -> bool:
    """Return whether it is known which classes were taken for which.

    Earlier versions kept names by the alphabet only. These are in the order of the labels if the accuracy on
    each class is what the places say.
    """
    if evaluation.class_names or not evaluation.confusion:
        return bool(evaluation.confusion)
    samples: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for label, predicted, count in evaluation.confusion:
        samples[label] += count
        right[label] += count if label == predicted else 0
    return all(
        (top1 is None) == (samples[place] == 0)
        and (top1 is None or math.isclose(top1 * samples[place], 100.0 * right[place], abs_tol=1e-6))
        for place, top1 in enumerate(evaluation.per_class_top1.values())
    )


def _subject(data: FigureData) -> str:
    """Say to `kdctl eval` what it should look at: the sweep, or one run where there is none."""
    return f"--sweep {shlex.quote(data.sweeps[0])}" if data.sweeps else data.runs[0].key[:8]


def _options(select: Selection, split: str = "test") -> str:
    """Say to `kdctl eval` what it does not look at by itself."""
    rule = "" if select is Selection.LAST else f" --select {select}"
    return f"{rule}{'' if split == 'test' else f' --split {split}'}"


def _best_first(found: Sequence[Evaluated]) -> list[Evaluated]:
    def accuracy(item: Evaluated) -> float:
        return item.group.summary.mean if item.group.summary else 0.0

    return sorted(found, key=accuracy, reverse=True)


def _evaluation(data: FigureData, key: str, split: str) -> Evaluation | None:
    """Return what was found of the model that the selection rule picks."""
    known = (item for item in data.evaluations(key) if item.split == split and item.selection == data.select)
    return next(known, None)
