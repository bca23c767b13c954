"""The winner of a sweep on fresh seeds: the best of many looks too good on the seeds that chose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdctl.errors import KdctlError
from kdctl.records import RunState, Selection, StoredRun, StoredSweep
from kdctl.report.baseline import Comparison, compare_with_baselines, find_baselines
from kdctl.report.best import accuracy_rank, best_of, deciding_split
from kdctl.report.fields import distinguishing_fields, read_field, short_names
from kdctl.report.layout import BestBy
from kdctl.report.replicates import Replicates, group_by_configuration
from kdctl.report.shown_runs import by_role
from kdctl.report.statistics import Spread, Summary, Verdict
from kdctl.report.table_format import Cell, Column, Number, Table
from kdctl.report.wording import (
    NOTHING,
    SELECTION_WORDS,
    SPREAD_WORDS,
    UNDECIDED_WORDS,
    label,
    mean_and_spread,
    rounded,
    signed,
    verdict_words,
)
from kdctl.serialization import canonical_json
from kdctl.text import plural


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration that is confirmed on fresh seeds."""

    label: str
    role: str
    """'winner', 'baseline' or 'runner-up'."""
    original: Replicates
    num_candidates: int
    """Among how many configurations the winner was chosen."""
    num_best: int
    """How many of these have the winner's accuracy; it is the first of them."""
    chosen_by: BestBy
    """The split whose mean accuracy made the winner."""

    @property
    def configuration(self) -> str:
        """Hash that its runs share."""
        return self.original.runs[0].configuration


def choose_candidates(
    runs: Sequence[StoredRun], sweep: StoredSweep, select: Selection
) -> list[tuple[Candidate, ...]]:
    """Return the winner for each student and data set, with what it is compared with.

    The winner has the best mean validation accuracy, or test accuracy where nothing was held out. It is
    compared with the student without a teacher, or else the second best; a lone configuration with nothing.

    Raises:
        KdctlError: nothing has finished.
    """
    students, _ = by_role(runs, [sweep])
    fields = distinguishing_fields([run.plan for run in students])
    tasks: dict[str, list[Replicates]] = {}
    for group in group_by_configuration(students, fields, select):
        task = canonical_json([group.plan["student"], group.plan["data"], group.plan["data_fingerprint"]])
        if group.top1 or RunState.PRUNED in group.lost:  # what was dropped was a choice as well
            tasks.setdefault(task, []).append(group)
    finished = [groups for groups in tasks.values() if any(group.top1 for group in groups)]
    if not finished:
        raise KdctlError(
            f"no run of the sweep '{sweep.name}' has finished.", "finish the sweep first: kdctl sweep RECIPE"
        )
    return [_of_task(groups, fields, select) for groups in finished]


def confirmation_table(
    pairs: Sequence[tuple[Candidate, ...]],
    fresh: Mapping[str, Sequence[StoredRun]],
    *,
    sweep: str,
    seeds: Sequence[int],
    select: Selection,
) -> Table:
    """Return original and fresh results beside each other, and the winner against its baseline.

    Args:
        pairs: as `choose_candidates` gave them.
        fresh: the runs on fresh seeds, by configuration.
        sweep: name of the sweep.
        seeds: the fresh ones.
        select: which epoch counts.
    """
    again = {key: group_by_configuration(list(runs), [], select)[0] for key, runs in fresh.items() if runs}
    against = compare_with_baselines([_pair(pair, again) for pair in pairs], range(len(pairs)))
    rows: list[tuple[Cell, ...]] = []
    for pair, comparison in zip(pairs, against, strict=True):
        for candidate in pair:
            group = again.get(candidate.configuration)
            rows.append(_row(candidate, group, comparison if candidate.role == "winner" else None))
    return Table(
        caption=f"Confirmation of sweep '{sweep}': top-1 test accuracy (%), {SELECTION_WORDS[select]}; "
        f"mean ± {SPREAD_WORDS[Spread.SAMPLE]}",
        columns=_COLUMNS,
        rows=tuple(rows),
        notes=tuple(_notes(pairs, again, seeds, against)),
    )


_COLUMNS = (
    Column(title="configuration", parts=("configuration",), align="left"),
    Column(title="role", parts=("role", "num_candidates"), align="left"),
    Column(title="original", parts=("original_mean", "original_std"), align="plus-minus"),
    Column(title="n", parts=("original_n",)),
    Column(title="fresh seeds", parts=("fresh_mean", "fresh_std"), align="plus-minus"),
    Column(title="n", parts=("fresh_n",)),
    Column(title="fresh − original", parts=("shift",)),
    Column(title="winner − other, fresh", parts=("difference", "half_width", "p", "verdict"), align="left"),
)


def _of_task(groups: Sequence[Replicates], fields: Sequence[str], select: Selection) -> tuple[Candidate, ...]:
    trained = [group for group in groups if group.top1]
    by = deciding_split(trained, select)
    ranked = sorted(trained, key=lambda group: accuracy_rank(group, by, select), reverse=True)
    baseline, *_ = find_baselines([ranked[0], *trained])
    names = list(short_names(fields).values())

    def candidate(group: Replicates, role: str) -> Candidate:
        values = tuple(read_field(group.plan, field) for field in fields)
        named = label(values, fields, names)
        return Candidate(
            label=named,
            role=role,
            original=group,
            num_candidates=len(groups),
            num_best=len(best_of(trained, by, select)),
            chosen_by=by,
        )

    winner = candidate(ranked[0], "winner")
    if baseline is not None:
        return winner, candidate(baseline.replicates, "baseline")
    return (winner, candidate(ranked[1], "runner-up")) if len(ranked) > 1 else (winner,)


def _pair(pair: tuple[Candidate, ...], again: Mapping[str, Replicates]) -> tuple[Summary, Summary] | None:
    summaries = [again[item.configuration].summary for item in pair if item.configuration in again]
    if len(summaries) < 2 or summaries[0] is None or summaries[1] is None:
        return None
    return summaries[0], summaries[1]


def _row(candidate: Candidate, fresh: Replicates | None, against: Comparison | None) -> tuple[Cell, ...]:
    original, again = candidate.original.summary, fresh.summary if fresh else None
    shift = again.mean - original.mean if again and original else None
    chosen = f" of {candidate.num_candidates}" if candidate.role == "winner" else ""
    return (
        _cell(candidate.label, candidate.label),
        _cell(f"{candidate.role}{chosen}", candidate.role, candidate.num_candidates),
        *_summary_cells(original),
        *_summary_cells(again),
        _cell(NOTHING if shift is None else signed(shift), rounded(shift)),
        _comparison_cell(against),
    )


def _summary_cells(summary: Summary | None) -> tuple[Cell, Cell]:
    number = summary.n if summary else 0
    numbers = (rounded(summary.mean), rounded(summary.std)) if summary else (None, None)
    return _cell(mean_and_spread(summary), *numbers), _cell(str(number), number)


def _comparison_cell(comparison: Comparison | None) -> Cell:
    if comparison is None:
        return _cell(NOTHING, None, None, None, None)
    text = signed(comparison.difference)
    if comparison.half_width is not None:
        text += f" ± {comparison.half_width:.2f}"
    if comparison.verdict is not None and comparison.p is not None:
        text += f", {verdict_words(comparison.verdict, comparison.p, comparison.more_seeds)}"
    values = (rounded(comparison.difference), rounded(comparison.half_width), rounded(comparison.p))
    return _cell(text, *values, comparison.verdict.value if comparison.verdict else None)


def _cell(text: str, *values: Number) -> Cell:
    return Cell(text=text, values=values)


def _notes(
    pairs: Sequence[tuple[Candidate, ...]],
    again: Mapping[str, Replicates],
    seeds: Sequence[int],
    against: Sequence[Comparison | None],
) -> list[str]:
    numbers = ", ".join(map(str, seeds))
    on_test = any(candidate.chosen_by == "test" for pair in pairs for candidate in pair)
    notes = [
        f"Fresh: {plural(len(seeds), 'seed')} ({numbers}) that chose nothing. The winner was chosen by the "
        + (
            "test accuracy of the original seeds, so its original mean is expected to be too high."
            if on_test
            else "validation accuracy of the original seeds."
        ),
        "Teachers are those of the sweep: what varies is the students' seeds.",
    ]
    if ties := [f"{winner.label} (of {winner.num_best})" for winner, *_ in pairs if winner.num_best > 1]:
        notes.append(f"Winners that are the first of several with the same accuracy: {'; '.join(ties)}.")
    if any(len(pair) > 1 for pair in pairs):
        undecided = any(item and item.verdict is Verdict.UNDECIDED for item in against)
        notes.append(
            "Winner − other: on fresh seeds alone, ± half the 95 % confidence interval; Welch's two-sided "
            f"t-test at 5 %, Holm-corrected over the table.{f' {UNDECIDED_WORDS}' if undecided else ''}"
        )
    lost = [
        f"{candidate.label}: {len(group.runs) - len(group.counted)} of {len(group.runs)} fresh runs"
        for pair in pairs
        for candidate in pair
        if (group := again.get(candidate.configuration)) and len(group.counted) < len(group.runs)
    ]
    if lost:
        notes.append(f"Not in the means: {'; '.join(lost)}.")
    return notes
