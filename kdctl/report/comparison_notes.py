"""What a reader must know of the comparisons in a table: with what, by which test, from where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from kdctl.report.baseline import BASELINE_METHOD, Comparison
from kdctl.report.columns import UNLIKE_MARK, UNTESTABLE_MARK, mark_of
from kdctl.report.layout import Layout
from kdctl.report.reported import Reported, quoted, untold_settings, without_row
from kdctl.report.rows import Row, shared_differences
from kdctl.report.statistics import MeanTestKind, Verdict
from kdctl.report.wording import (
    MORE_SEEDS_WORDS,
    SELECTION_WORDS,
    UNDECIDED_WORDS,
    and_more,
    enumerated,
    title,
)
from kdctl.text import plural

_MAX_NAMED = 5

_TEST_WORDS = {
    MeanTestKind.MODERATED: "with variances moderated by all rows of the student",
    MeanTestKind.PARTLY_MODERATED: "with one side's own variance, for it is unlike the rows'",
    MeanTestKind.WELCH: "Welch's",
}


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
        yield f"Published, without a row here: {and_more(named, _MAX_NAMED)}."


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
