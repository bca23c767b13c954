"""What a reader must know beside the numbers of a table."""

from __future__ import annotations

import bisect
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdctl.records import RunState
from kdctl.report.baseline import BASELINE_METHOD, Comparison
from kdctl.report.best import Choice
from kdctl.report.cells import POOLED_MARK
from kdctl.report.columns import UNLIKE_MARK, UNTESTABLE_MARK, mark_of
from kdctl.report.evaluated import unevaluated_notes
from kdctl.report.fields import read_field, show_value
from kdctl.report.layout import Layout
from kdctl.report.replicates import Replicates, in_table_order, pooled_over
from kdctl.report.reported import Reported, quoted, untold_settings, without_row
from kdctl.report.rows import Row, shared_differences
from kdctl.report.statistics import MeanTestKind, Verdict
from kdctl.report.subject import unlike_subjects, unlike_words
from kdctl.report.table_format import Mark
from kdctl.report.wording import (
    MORE_SEEDS_WORDS,
    SELECTION_WORDS,
    UNDECIDED_WORDS,
    enumerated,
    label,
    title,
)
from kdctl.text import plural

OUTLIER_RATIO = 5.0
"""A std that many times its neighbours' median is pointed out."""

_TEST_WORDS = {
    MeanTestKind.MODERATED: "with variances moderated by all rows of the student",
    MeanTestKind.PARTLY_MODERATED: "with one side's own variance, for it is unlike the rows'",
    MeanTestKind.WELCH: "Welch's",
}
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


def mark_notes(groups: Sequence[Replicates]) -> Iterator[str]:
    """Say what bold and underlined numbers are, where there are any."""
    if any(group.mark is not Mark.NONE for group in groups):
        yield (
            "Bold: the best of those with the same student and teacher, and what a test at 5 % does not tell "
            "from it; underlined: the same of the rest."
        )


def comparison_notes(rows: Sequence[Row], layout: Layout) -> Iterator[str]:
    """Say what rows are compared with and how."""
    shown = rows if layout.beside != "published" else ()
    yield from _baselines(shown, layout)
    ours = [row.against_baseline for row in shown if row.against_baseline and row.against_baseline.verdict]
    published = [
        row.against_reported for row in rows if row.against_reported and row.against_reported.verdict
    ]
    best = [row.against_best for row in shown if row.against_best and row.against_best.verdict]
    families = [
        f"{plural(len(tested), 'comparison')} with {theirs}"
        for tested, theirs in ((ours, BASELINE_METHOD), (best, "the best"), (published, "published numbers"))
        if tested
    ]
    if families:
        yield (
            f"Verdicts: {_tests([*ours, *best])}, p Holm-corrected over the "
            f"{' and, apart from these, the '.join(families)}.{_undecided([*ours, *best, *published])}"
        )
    if any(row.against_best for row in shown):
        yield "The best of a student is the row with its highest mean: chosen by the numbers compared here."
    if layout.intervals and any(comparison.half_width for comparison in [*ours, *best, *published]):
        yield "± behind a Δ: half its 95 % confidence interval, not corrected for the number of rows."


def reported_notes(
    rows: Sequence[Row], reported: Sequence[Reported], known: Sequence[str], layout: Layout
) -> Iterator[str]:
    """Say where published numbers come from, and which could not be tested or placed.

    Args:
        rows: of the table.
        reported: all published numbers of its recipe.
        known: every field of the rows' plans.
        layout: whether they were asked for.
    """
    used = [row.reported for row in rows if row.reported]
    if layout.beside == "published" and not used:
        yield "No published number is about the data, the models and the method of one of these rows."
    origins = dict.fromkeys(_origin(item) for item in used)
    if origins:
        yield f"Published: {'; '.join(origins)}."
    if unlike := shared_differences(rows):
        yield f"Not comparable with what is published: {', '.join(unlike)}."
    untold = untold_settings([row.group for row in rows], [row.reported for row in rows], layout.names)
    if untold:
        which = enumerated([title(name) for name in untold])
        yield f"A published number beside several rows does not tell which {which} it is of."
    marks = "".join(mark_of(row) for row in rows)
    if UNTESTABLE_MARK in marks:
        yield f"{UNTESTABLE_MARK} published without std or number of trials: no test."
    if UNLIKE_MARK in marks:
        yield f"{UNLIKE_MARK} got by another selection rule: not like for like, no test."
    unplaced = without_row(reported, used, [row.group for row in rows], known)
    if unplaced:
        named = [f"{item.label or item.source or 'no label'} {item.summary.mean:.2f}" for item in unplaced]
        yield f"Published, without a row here: {_and_more(named, _MAX_NAMED)}."


def choice_notes(choice: Choice, layout: Layout) -> Iterator[str]:
    """Say among how many settings each was chosen, and what that does to its accuracy."""
    if choice.unchosen:
        cells = [_cell_label(group, layout) for group in choice.unchosen]
        yield f"Left out, for nothing was held out by which to choose: {_and_more(cells, _MAX_NAMED, ';')}."
    counts = sorted(set(choice.num_candidates))
    if counts == [1]:
        yield "There was one setting for each row: nothing was chosen."
        return
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    split = "validation accuracy" if layout.best_by == "val" else "test accuracy"
    yield f"Each is the best of {number} settings by mean {split}."
    if choice.tied:
        cells = [_cell_label(group, layout) for group in choice.tied]
        yield f"The first of several that tie: {_and_more(cells, _MAX_NAMED, ';')}."
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
    named = _and_more(rows, _MAX_NAMED, ";")
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
        yield f"Not from random weights: {_and_more(started)}."


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


def _and_more(labels: Sequence[str], most: int = 2, mark: str = ",") -> str:
    """Name the first labels, with a mark between them, and say how many more there are."""
    more = f"{'' if mark == ',' else mark} and {len(labels) - most} more" if len(labels) > most else ""
    return f"{mark} ".join(labels[:most]) + more


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
        over if len(pooled) == 1 else f"{_and_more(labels)} over {over}" for over, labels in pooled.items()
    ]
    if where:
        averaged = "averaged over " if len(pooled) == 1 else ""
        yield (
            f"{POOLED_MARK} pools several configurations: {averaged}{_and_more(where, _MAX_NAMED, ';')}. "
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


def _baselines(rows: Sequence[Row], layout: Layout) -> Iterator[str]:
    found = [row.baseline for row in rows if row.baseline and row.against_baseline]
    if any(baseline.same_settings for baseline in found):
        yield f"Δ {BASELINE_METHOD}: against {BASELINE_METHOD} with otherwise equal settings."
    others = dict.fromkeys(
        f"{layout.label(baseline.replicates)}"
        + (f", the best of {baseline.num_candidates}" if baseline.num_candidates > 1 else "")
        for baseline in found
        if not baseline.same_settings
    )
    if others:
        yield (
            f"Δ {BASELINE_METHOD}, where no {BASELINE_METHOD} run has otherwise equal settings: "
            f"against {'; '.join(others)}."
        )


def _tests(comparisons: Sequence[Comparison]) -> str:
    """Name the tests against baselines; those against published numbers are always Welch's."""
    counts = Counter(comparison.test for comparison in comparisons)
    if not counts[MeanTestKind.MODERATED] and not counts[MeanTestKind.PARTLY_MODERATED]:
        return "Welch's two-sided t-test at 5 %"
    kinds = [f"{counts[kind]} {words}" for kind, words in _TEST_WORDS.items() if counts[kind]]
    return f"two-sided t-tests at 5 % ({'; '.join(kinds)})"


def _undecided(comparisons: Sequence[Comparison]) -> str:
    words = f" {UNDECIDED_WORDS}" if any(item.verdict is Verdict.UNDECIDED for item in comparisons) else ""
    return words + (f" {MORE_SEEDS_WORDS}" if any(item.more_seeds for item in comparisons) else "")


def _origin(item: Reported) -> str:
    trials = plural(item.summary.n, "trial") if item.summary.n else None
    select = SELECTION_WORDS[item.select].partition(" (")[0] if item.select else None
    protocol = f"protocol {quoted(item.protocol)}" if item.protocol else None
    details = ", ".join(detail for detail in (protocol, select, trials) if detail)
    return f"{item.source or item.label or 'no source given'}" + (f" ({details})" if details else "")
