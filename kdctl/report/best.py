"""The best of several: one setting for each cell, and which rows of a table are its best."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kdctl.errors import KdctlError
from kdctl.records import Selection
from kdctl.report.baseline import compare_with_baselines, task_of
from kdctl.report.fields import read_field
from kdctl.report.layout import BestBy
from kdctl.report.replicates import Replicates, Value, selected_epoch
from kdctl.report.statistics import Verdict
from kdctl.report.table_format import Mark


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The setting that was chosen for each cell."""

    groups: tuple[Replicates, ...]
    """One for each cell, the chosen one."""
    num_candidates: tuple[int, ...]
    """Among how many it was chosen, for each."""
    unchosen: tuple[Replicates, ...] = ()
    """One of each cell in which nothing could be chosen: its runs held nothing out."""
    tied: tuple[Replicates, ...] = ()
    """Those chosen as the first of several with the same accuracy."""


def choose_settings(
    groups: Sequence[Replicates], fields: Sequence[str], by: BestBy, select: Selection
) -> Choice:
    """Return for each combination of values of `fields` the configuration with the best mean accuracy.

    Of several that have it, the first is chosen. A cell of several configurations none of which has an
    accuracy on the split that decides, though their runs have finished, has no best one.

    Args:
        groups: one for each configuration.
        fields: what makes a cell.
        by: the split whose accuracy decides.
        select: which epoch counts.

    Raises:
        KdctlError: no run has accuracies on that split.
    """
    cells: dict[tuple[Value, ...], list[Replicates]] = {}
    for group in groups:
        cells.setdefault(tuple(read_field(group.plan, field) for field in fields), []).append(group)
    if by == "val" and not any(_accuracies(group, by, select) for group in groups):
        raise KdctlError(
            "no run has a validation accuracy by which the best setting could be chosen.",
            "hold out a part of the training set: -o data.val_fraction=0.1; or choose on the test set, which "
            "the caption then calls an oracle: --best-by test.",
        )
    unchosen = [
        cell
        for cell in cells.values()
        if len(cell) > 1
        and any(group.counted for group in cell)
        and not any(_accuracies(group, by, select) for group in cell)
    ]
    decided = [cell for cell in cells.values() if cell not in unchosen]
    best = [best_of(cell, by, select) for cell in decided]
    return Choice(
        groups=tuple(groups[0] for groups in best),
        num_candidates=tuple(map(len, decided)),
        unchosen=tuple(cell[0] for cell in unchosen),
        tied=tuple(groups[0] for groups in best if len(groups) > 1 and groups[0].counted),
    )


def best_of(groups: Sequence[Replicates], by: BestBy, select: Selection) -> list[Replicates]:
    """Return those with the highest mean accuracy on a split: several where they tie."""
    ranks = [accuracy_rank(group, by, select) for group in groups]
    highest = max(ranks)
    return [group for group, rank in zip(groups, ranks, strict=True) if rank == highest]


def best_marks(groups: Sequence[Replicates]) -> list[Mark]:
    """Mark the best of groups that may be compared, and the second.

    The group with the highest mean is the best, and so are the next ones that a test (as against a baseline)
    cannot tell from it; of the others the same is asked again for the second. Where the test tells nothing
    from the best, or cannot be made because groups are single runs, nothing is marked.
    """
    marks = [Mark.NONE] * len(groups)
    rest = [place for place, group in enumerate(groups) if group.summary and not group.is_pooled]
    for mark in (Mark.BEST, Mark.SECOND):
        ties = _ties(groups, rest)
        if mark is Mark.BEST and len(ties) == len(rest):
            return marks
        for place in ties:
            marks[place] = mark
        rest = [place for place in rest if place not in ties]
    return marks


def with_marks(groups: Sequence[Replicates]) -> list[Replicates]:
    """Mark the best among those that share data, protocol, length, student and teacher: see `best_marks`.

    A student without a teacher competes beside each teacher, and gets a mark that it has beside all of them.
    """
    tasks = [task_of(group) for group in groups]
    teachers = [read_field(group.plan, "teachers") for group in groups]
    marks = [Mark.NONE] * len(groups)
    for task in dict.fromkeys(tasks):
        among = [place for place, other in enumerate(tasks) if other == task]
        taught = dict.fromkeys(teachers[place] for place in among if teachers[place] is not None)
        alone: dict[int, set[Mark]] = {place: set() for place in among if teachers[place] is None}
        for teacher in taught or (None,):
            places = [place for place in among if teachers[place] in (None, teacher)]
            found = best_marks([groups[place] for place in places])
            for place, mark in zip(places, found, strict=True):
                marks[place] = mark
                if place in alone:
                    alone[place].add(mark)
        for place, given in alone.items():
            marks[place] = given.pop() if len(given) == 1 else Mark.NONE
    return [dataclasses.replace(group, mark=mark) for group, mark in zip(groups, marks, strict=True)]


def _ties(groups: Sequence[Replicates], places: Sequence[int]) -> list[int]:
    """Return the place with the highest mean, and the next ones up to the first that the test finds worse.

    What has a lower mean than that one is no tie either, however widely its runs scatter.
    """
    means = {place: summary.mean for place in places if (summary := groups[place].summary)}
    if not means:
        return []
    top = max(means, key=means.__getitem__)
    others = [place for place in places if place != top]
    leader = groups[top].summary
    compared = compare_with_baselines(
        [(ours, leader) if leader and (ours := groups[place].summary) else None for place in others],
        [None] * len(others),
    )
    worse = {
        place
        for place, comparison in zip(others, compared, strict=True)
        if comparison and comparison.verdict is Verdict.WORSE
    }
    highest_worse = max((means[place] for place in worse), default=float("-inf"))
    return [place for place in means if place not in worse and means[place] > highest_worse]


def _accuracies(group: Replicates, by: BestBy, select: Selection) -> list[float]:
    epochs = [epoch for run in group.counted if (epoch := selected_epoch(run, select))]
    splits = [epoch.val if by == "val" else epoch.test for epoch in epochs]
    return [split.top1 for split in splits if split is not None]


def deciding_split(groups: Sequence[Replicates], select: Selection) -> BestBy:
    """Return the split on which the best of `groups` is chosen: a held-out one where all have it."""
    return "val" if all(_accuracies(group, "val", select) for group in groups) else "test"


def accuracy_rank(group: Replicates, by: BestBy, select: Selection) -> float:
    """Return the mean accuracy on a split, in percent; minus infinity where no run has one."""
    accuracies = _accuracies(group, by, select)
    return statistics.fmean(accuracies) if accuracies else float("-inf")
