"""A group of replicates with everything that a table holds beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from kdctl.report.baseline import (
    Baseline,
    Comparison,
    best_of_tasks,
    compare,
    compare_with_baselines,
    find_baselines,
    task_of,
)
from kdctl.report.layout import Layout
from kdctl.report.replicates import Replicates
from kdctl.report.reported import Reported
from kdctl.report.statistics import Summary


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table, before it is worded."""

    group: Replicates
    baseline: Baseline | None
    against_baseline: Comparison | None
    against_best: Comparison | None
    """None unless that was asked for, and for the best itself."""
    reported: Reported | None
    differences: tuple[str, ...]
    """In what the published number is about something else; it is then compared with nothing."""
    is_like_for_like: bool
    """Whether the published number was got under our selection rule."""
    against_reported: Comparison | None


def shared_differences(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return why published numbers cannot be compared where it is the same for several rows and no other."""
    found = [row.differences for row in rows if row.differences]
    return found[0] if len(found) > 1 and len(set(found)) == 1 else ()


def make_rows(
    groups: Sequence[Replicates],
    matches: Sequence[Reported | None],
    layout: Layout,
) -> list[Row]:
    """Hold each group beside its baseline and its published number.

    The tests against baselines are one family, those against the best another, and so are those against
    published numbers.

    Args:
        groups: one for each row.
        matches: the published number of each group.
        layout: which epoch counts, and whether rows are compared with the best.
    """
    differences = [
        match.differences(group, layout.totals) if match is not None else ()
        for group, match in zip(groups, matches, strict=True)
    ]
    baselines = find_baselines(groups)
    like_for_like = [match is not None and match.is_like_for_like(layout.select) for match in matches]
    ours = [_replicate_summary(group) for group in groups]
    against_baseline = _compare_with(groups, [found.replicates if found else None for found in baselines])
    best = best_of_tasks(groups) if layout.versus_best else [None] * len(groups)
    against_best = _compare_with(groups, best)
    against_reported = compare(
        [
            (mine, match.summary if is_like else _without_test(match.summary))
            if mine and match and not unlike
            else None
            for mine, match, is_like, unlike in zip(ours, matches, like_for_like, differences, strict=True)
        ]
    )
    return [
        Row(
            group=group,
            baseline=baselines[place],
            against_baseline=against_baseline[place],
            against_best=against_best[place],
            reported=matches[place],
            differences=differences[place],
            is_like_for_like=like_for_like[place],
            against_reported=against_reported[place],
        )
        for place, group in enumerate(groups)
    ]


def _compare_with(
    groups: Sequence[Replicates], others: Sequence[Replicates | None]
) -> list[Comparison | None]:
    """Compare each group with the other of its place, where there is one; all tests are one family."""
    pairs = [
        (ours, theirs)
        if other and (ours := _replicate_summary(group)) and (theirs := _replicate_summary(other))
        else None
        for group, other in zip(groups, others, strict=True)
    ]
    tasks = [task_of(group) if pair else None for group, pair in zip(groups, pairs, strict=True)]
    return compare_with_baselines(pairs, tasks)


def _replicate_summary(group: Replicates) -> Summary | None:
    """Runs of several configurations are no replicates: their spread must not enter a test."""
    return _without_test(group.summary) if group.summary and group.is_pooled else group.summary


def _without_test(summary: Summary) -> Summary:
    """Without its std a mean can only be subtracted."""
    return dataclasses.replace(summary, std=None)
