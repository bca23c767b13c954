"""What a reader must know beside the numbers of a table."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from kdctl.records import RunState, StoredRun
from kdctl.report.baseline import BASELINE_METHOD
from kdctl.report.fields import short_names, varying_fields
from kdctl.report.layout import Layout
from kdctl.report.replicates import Replicates, group_by_configuration
from kdctl.report.reported import Reported, without_row
from kdctl.report.rows import Row
from kdctl.report.statistics import Verdict
from kdctl.report.strips import UNLIKE_MARK, UNTESTABLE_MARK, mark_of
from kdctl.report.wording import SELECTION_WORDS, UNDECIDED_WORDS, mean_and_spread, plural, title

OUTLIER_RATIO = 5.0
"""A std that many times its neighbours' median is pointed out."""

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
        states = dict.fromkeys(run.state for group in groups for run in _open_runs(group))
        yield f"Still missing: {_first_of(missing, states, layout)}."
    if any(RunState.PRUNED in group.lost for group in groups):
        yield (
            "Some configurations were dropped before all of their seeds had run (pruned): their n is "
            "smaller, and the rows left were chosen by seeds that are part of their means."
        )
    protocols = list(dict.fromkeys(str(run.plan.get("protocol")) for group in groups for run in group.runs))
    if len(protocols) > 1:
        yield (
            f"Rows come from different protocols ({', '.join(protocols)}): "
            "compare only rows of the same protocol."
        )
    yield from _pooled(groups, layout)
    yield from _outliers(groups, layout)


def comparison_notes(rows: Sequence[Row], layout: Layout) -> Iterator[str]:
    """Say what rows are compared with and how."""
    yield from _baselines(rows, layout)
    ours = [row.against_baseline.verdict for row in rows if row.against_baseline]
    published = [row.against_reported.verdict for row in rows if row.against_reported]
    families = [
        f"{plural(len(tested), 'comparison')} with {theirs}"
        for verdicts, theirs in ((ours, BASELINE_METHOD), (published, "published numbers"))
        if (tested := [verdict for verdict in verdicts if verdict is not None])
    ]
    if families:
        undecided = f" {UNDECIDED_WORDS}" if Verdict.UNDECIDED in [*ours, *published] else ""
        yield (
            "Verdicts: Welch's two-sided t-test at 5 %, p Holm-corrected over the "
            f"{' and, apart from these, the '.join(families)}.{undecided}"
        )


def reported_notes(rows: Sequence[Row], reported: Sequence[Reported], known: Sequence[str]) -> Iterator[str]:
    """Say where published numbers come from, and which could not be tested or placed.

    Args:
        rows: of the table.
        reported: all published numbers of its recipe.
        known: every field of the rows' plans.
    """
    used = [row.reported for row in rows if row.reported]
    origins = dict.fromkeys(_origin(item) for item in used)
    if origins:
        yield f"Published: {'; '.join(origins)}."
    marks = "".join(mark_of(row) for row in rows)
    if UNTESTABLE_MARK in marks:
        yield f"{UNTESTABLE_MARK} published without std or number of trials: no test."
    if UNLIKE_MARK in marks:
        yield f"{UNLIKE_MARK} got under another protocol or selection rule: not like for like, no test."
    unplaced = without_row(reported, used, [row.group for row in rows], known)
    if unplaced:
        named = [f"{item.label or item.source} {item.summary.mean:.2f}" for item in unplaced[:_MAX_NAMED]]
        more = f" and {len(unplaced) - _MAX_NAMED} more" if len(unplaced) > _MAX_NAMED else ""
        yield f"Published, without a row here: {', '.join(named)}{more}."


def teacher_notes(teachers: Sequence[StoredRun], layout: Layout) -> Iterator[str]:
    """Give the teachers that were trained for this table a line each."""
    for group in group_by_configuration(teachers, ["student.name"], layout.select):
        counted = f"n = {len(group.counted)}"
        yield f"Teacher {group.values[0]}: {mean_and_spread(group.summary, layout.spread)} ({counted})."


def _first_of(rows: Sequence[str], states: Iterable[RunState], layout: Layout) -> str:
    """Name the first rows; for the others, the command that lists the runs of all."""
    named, rest = "; ".join(rows[:_MAX_NAMED]), len(rows) - _MAX_NAMED
    if rest <= 0:
        return named
    sweep = f" --sweep {shlex.quote(layout.sweep)}" if layout.sweep else ""
    asked = "".join(f" --state {state.value}" for state in states)
    return f"{named}; and {rest} more: `kdctl runs list{sweep}{asked} --format csv`"


def _lost(group: Replicates) -> str:
    counts = ", ".join(f"{count} {state.value}" for state, count in group.lost.items())
    reasons = list(dict.fromkeys(run.reason for run in group.runs if run.state in group.lost and run.reason))
    more = ["..."] if len(reasons) > _MAX_REASONS else []
    told = "; ".join([*reasons[:_MAX_REASONS], *more])
    return f"{plural(len(group.runs), 'run')}, {counts}" + (f" ({told})" if told else "")


def _open_runs(group: Replicates) -> list[StoredRun]:
    """Return the runs that may still come: planned, running, interrupted, or without the selected epoch."""
    return [run for run in group.runs if run not in group.counted and run.state not in group.lost]


def _missing(group: Replicates, layout: Layout) -> str:
    finished = f"without a {layout.select} epoch"
    states = Counter(
        finished if run.state is RunState.FINISHED else run.state.value for run in _open_runs(group)
    )
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{plural(len(group.runs), 'run')}, {counts}" if counts else ""


def _pooled(groups: Iterable[Replicates], layout: Layout) -> Iterator[str]:
    pooled = [group for group in groups if group.is_pooled]
    if not pooled:
        return
    inside = dict.fromkeys(
        field for group in pooled for field in varying_fields([run.plan for run in group.runs])
    )
    names = short_names([*layout.fields, *inside])
    hidden = ", ".join(title(names[field]) for field in inside) or "the teacher's run"
    yield f"Means pool several configurations ({hidden} differs): the ± is not that of seeds alone."


def _outliers(groups: Sequence[Replicates], layout: Layout) -> Iterator[str]:
    """The neighbours are all other rows; one alone is no measure."""
    spread = [(group, group.std) for group in groups if group.std is not None]
    for group, std in spread:
        others = [other_std for other, other_std in spread if other is not group]
        median = statistics.median(others) if len(others) > 1 else 0.0
        if median and std > OUTLIER_RATIO * median:
            yield (
                f"Warning: the std of {layout.label(group)} ({std:.2f}) is {std / median:.0f} times "
                f"the median of the other rows' ({median:.2f}): look at its single runs."
            )


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


def _origin(item: Reported) -> str:
    trials = plural(item.summary.n, "trial") if item.summary.n else None
    select = SELECTION_WORDS[item.select].partition(" (")[0] if item.select else None
    protocol = f"protocol {item.protocol}" if item.protocol else None
    details = ", ".join(detail for detail in (protocol, select, trials) if detail)
    return f"{item.source or item.label}" + (f" ({details})" if details else "")
