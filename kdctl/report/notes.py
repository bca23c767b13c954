"""What a reader must know beside the numbers of a table."""

from __future__ import annotations

import bisect
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdctl.records import RunState
from kdctl.report.best import Choice
from kdctl.report.cells import POOLED_MARK
from kdctl.report.evaluated import unevaluated_notes
from kdctl.report.fields import read_field, show_value
from kdctl.report.layout import Layout
from kdctl.report.replicates import Replicates, in_table_order, pooled_over
from kdctl.report.subject import unlike_subjects, unlike_words
from kdctl.report.table_format import Mark
from kdctl.report.wording import and_more, label
from kdctl.text import plural

OUTLIER_RATIO = 5.0
"""A std that many times its neighbours' median is pointed out."""

_WEIGHTS = "student.weights"
_ALL_IF_NONE = ("data.num_classes", "data.samples_per_class")
"""Options that leave something out, unless they are not given."""
_MAX_NAMED = 5
_MAX_REASONS = 2


def run_notes(groups: Sequence[Replicates], layout: Layout) -> Iterator[str]:
    """Say what became of the runs: lost, still missing, pooled, suspiciously scattered."""
    lost = [f"{layout.label(group)}: {_lost(group)}" for group in groups if group.lost]
    if lost:
        states = dict.fromkeys(state for group in groups for state in group.lost)
        yield f"Not in the means: {_first_of(lost, states, layout)}."
    missing = [f"{layout.label(group)}: {words}" for group in groups if (words := _missing(group, layout))]
    if missing:
        states = dict.fromkeys(RunState(state) for group in groups for state in group.missing)
        yield f"Still missing: {_first_of(missing, states, layout)}."
    if any(RunState.PRUNED in group.lost for group in groups):
        yield (
            "Some configurations were dropped before all of their seeds had run (pruned): their n is "
            "smaller, and the rows left were chosen by seeds that are part of their means."
        )
    plans = [plan for group in groups for plan in group.plans]
    yield from subject_notes(plans)
    yield from _started_from_weights(groups, layout)
    yield from _pooled(groups, layout)
    yield from unevaluated_notes(groups, layout)
    if layout.shows_accuracy:
        yield from _outliers(groups, layout)


def teacher_fact_notes(groups: Sequence[Replicates], shown: Iterable[str]) -> Iterator[str]:
    """Say of which teacher a number is where a row has several.

    Args:
        groups: the rows.
        shown: names of the table's raw columns.
    """
    if all(len(plan["teachers"]) < 2 for group in groups for plan in group.plans):
        return
    words = {
        "teacher_top1": "teacher (%) is the best one's",
        "pruning_percent": "pruned (%) against the largest",
    }
    if told := [words[name] for name in words if name in shown]:
        yield f"Of several teachers: {', '.join(told)}."


def mark_notes(groups: Sequence[Replicates]) -> Iterator[str]:
    """Say what bold and underlined numbers are, where there are any."""
    if any(group.mark is not Mark.NONE for group in groups):
        yield (
            "Bold: the best of those with the same student and teacher, and what a test at 5 % does not tell "
            "from it; underlined: the same of the rest."
        )


def choice_notes(choice: Choice, layout: Layout) -> Iterator[str]:
    """Say among how many settings each was chosen, and what that does to its accuracy."""
    if choice.unchosen:
        cells = [_cell_label(group, layout) for group in choice.unchosen]
        yield f"Left out, for nothing was held out by which to choose: {and_more(cells, _MAX_NAMED, ';')}."
    counts = sorted(set(choice.num_candidates))
    if counts == [1]:
        yield "There was one setting for each row: nothing was chosen."
        return
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    split = "validation accuracy" if layout.best_by == "val" else "test accuracy"
    yield f"Each is the best of {number} settings by mean {split}."
    if choice.tied:
        cells = [_cell_label(group, layout) for group in choice.tied]
        yield f"The first of several that tie: {and_more(cells, _MAX_NAMED, ';')}."
    if layout.best_by == "test":
        yield (
            "Chosen on the test set (oracle): the means are too high, and tests between rows too often find "
            "a difference; `kdctl confirm` trains the best on fresh seeds."
        )


def _cell_label(group: Replicates, layout: Layout) -> str:
    """Name the cell of a group without the settings that are chosen in it."""
    places = [place for place, field in enumerate(layout.fields) if field not in layout.chosen]
    values, fields, names = (
        [each[place] for place in places] for each in (group.values, layout.fields, layout.names)
    )
    return label(values, fields, names)


def _first_of(rows: Sequence[str], states: Iterable[RunState], layout: Layout) -> str:
    """Name the first rows; for the others, the command that lists the runs of all."""
    named = and_more(rows, _MAX_NAMED, ";")
    if len(rows) <= _MAX_NAMED:
        return named
    sweep = f" --sweep {shlex.quote(layout.sweep)}" if layout.sweep else ""
    asked = "".join(f" --state {state.value}" for state in states)
    return f"{named}: `kdctl runs list{sweep}{asked} --format csv`"


def _started_from_weights(groups: Sequence[Replicates], layout: Layout) -> Iterator[str]:
    """Say which students did not start from random weights, where no row or column does."""
    if _WEIGHTS in layout.fields:
        return
    known = [(layout.label(group), read_field(plan, _WEIGHTS)) for group in groups for plan in group.plans]
    sources = [(label, f"from {show_value(weights)}") for label, weights in known if weights is not None]
    started = [f"{label} ({source})" for label, source in dict.fromkeys(sources)]
    if started:
        yield f"Not from random weights: {and_more(started)}."


def subject_notes(plans: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say in which rows are about different things."""
    unlike: list[str] = []
    for field in unlike_subjects(plans):
        values = dict.fromkeys((read_field(plan, field),) for plan in plans)
        ordered = [value for (value,) in in_table_order(list(values))]
        told = [value for value in ordered if value is not None or field in _ALL_IF_NONE]
        listed = ", ".join("all" if value is None else show_value(value) for value in told)
        unlike.append(f"{unlike_words(field)} ({listed})")
    if unlike:
        which = "this" if len(unlike) == 1 else "all of these"
        yield f"Rows come from different {', '.join(unlike)}: compare only rows that agree in {which}."


def _lost(group: Replicates) -> str:
    counts = ", ".join(f"{count} {state.value}" for state, count in group.lost.items())
    reasons = list(dict.fromkeys(run.reason for run in group.runs if run.state in group.lost and run.reason))
    more = ["..."] if len(reasons) > _MAX_REASONS else []
    told = "; ".join([*reasons[:_MAX_REASONS], *more])
    return f"{plural(len(group.runs), 'run')}, {counts}" + (f" ({told})" if told else "")


def _missing(group: Replicates, layout: Layout) -> str:
    words = {RunState.FINISHED.value: f"without a {layout.select} epoch"}
    counts = ", ".join(f"{count} {words.get(state, state)}" for state, count in group.missing.items())
    return f"{plural(len(group.runs), 'run')}, {counts}" if counts else ""


def _pooled(groups: Iterable[Replicates], layout: Layout) -> Iterator[str]:
    pooled: dict[str, list[str]] = {}
    for group in groups:
        if group.is_pooled:
            pooled.setdefault(pooled_over(group), []).append(layout.label(group))
    where = [
        over if len(pooled) == 1 else f"{and_more(labels)} over {over}" for over, labels in pooled.items()
    ]
    if where:
        averaged = "averaged over " if len(pooled) == 1 else ""
        yield (
            f"{POOLED_MARK} pools several configurations: {averaged}{and_more(where, _MAX_NAMED, ';')}. "
            "The ± is not that of seeds alone."
        )


def _outliers(groups: Sequence[Replicates], layout: Layout) -> Iterator[str]:
    """The neighbours are all other rows; one alone is no measure."""
    spread = [(group, group.std) for group in groups if group.std is not None]
    ordered = sorted(std for _, std in spread)
    for group, std in spread:
        median = _median_without(ordered, bisect.bisect_left(ordered, std)) if len(ordered) > 2 else 0.0
        if median and std > OUTLIER_RATIO * median:
            yield (
                f"Warning: the std of {layout.label(group)} ({std:.2f}) is {std / median:.0f} times "
                f"the median of the other rows' ({median:.2f}): look at its single runs."
            )


def _median_without(ordered: Sequence[float], place: int) -> float:
    """Return the median of sorted numbers without the one at `place`."""
    half, is_odd = divmod(len(ordered) - 1, 2)
    left, right = ((at + (at >= place)) for at in ((half, half) if is_odd else (half - 1, half)))
    return (ordered[left] + ordered[right]) / 2
