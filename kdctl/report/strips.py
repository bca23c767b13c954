"""The columns of a table with one row for each configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kdctl.records import RunResult, RunState
from kdctl.report.baseline import BASELINE_METHOD, Comparison
from kdctl.report.fields import show_value
from kdctl.report.layout import Layout
from kdctl.report.replicates import Replicates, Value
from kdctl.report.rows import Row
from kdctl.report.statistics import Spread, Summary, spread_of
from kdctl.report.table_format import Cell, Column
from kdctl.report.wording import NOTHING, mean_and_spread, rounded, signed, title, verdict_and_p

UNTESTABLE_MARK = "†"
"""Published without std or number of trials."""
UNLIKE_MARK = "‡"
"""Published under another protocol or selection rule."""
SPREAD_PARTS = {
    Spread.SAMPLE: "std",
    Spread.POPULATION: "population_std",
    Spread.SEM: "sem",
    Spread.CI95: "ci95",
}
LOST_PARTS = {
    "num_dropped": RunState.PRUNED,
    "num_diverged": RunState.DIVERGED,
    "num_failed": RunState.FAILED,
}
"""Raw columns that say why n is smaller than what was planned; runs in none of them are still missing."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A column with its cells, top to bottom."""

    column: Column
    cells: tuple[Cell, ...]

    @property
    def is_empty(self) -> bool:
        """Whether no cell holds a value."""
        return all(value is None for cell in self.cells for value in cell.values)


def table_strips(rows: Sequence[Row], layout: Layout) -> list[Strip]:
    """Return the columns of the table; those that would be empty are left out."""
    fields = [
        field_strip(name, [row.group.values[place] for row in rows])
        for place, name in enumerate(layout.names)
    ]
    results = [_top1_strip(rows, layout.spread), _n_strip(rows)]
    beside = [*_baseline_strips(rows), *_fact_strips(rows), *_reported_strips(rows)]
    return [*fields, *results, *(strip for strip in beside if not strip.is_empty)]


def field_strip(name: str, values: Iterable[Value]) -> Strip:
    """Return the column of one field of the recipe: numbers flush right, names flush left."""
    values = tuple(values)
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    raw = [show_value(value) if isinstance(value, tuple) else value for value in values]
    return Strip(
        column=Column(title=title(name), parts=(name,), align="right" if are_numbers else "left"),
        cells=tuple(Cell(text=show_value(value), values=(value,)) for value in raw),
    )


def mean_cell(summary: Summary | None, spread: Spread) -> Cell:
    """Return the cell of a mean with its spread."""
    values = (summary.mean, spread_of(summary, spread)) if summary else (None, None)
    return Cell(text=mean_and_spread(summary, spread), values=tuple(map(rounded, values)))


def count_text(group: Replicates) -> str:
    """Word how many runs are in the mean: '3', or '2 of 3' when some are missing."""
    counted, planned = len(group.counted), len(group.runs)
    return str(counted) if counted == planned else f"{counted} of {planned}"


def lost_parts(groups: Iterable[Replicates]) -> tuple[str, ...]:
    """Return which of the `LOST_PARTS` a table needs: only what happened to some of its runs."""
    states = {state for group in groups for state in group.lost}
    return tuple(part for part, state in LOST_PARTS.items() if state in states)


def lost_counts(group: Replicates, parts: Sequence[str]) -> tuple[int, ...]:
    """Return how many runs of a group were lost in each way."""
    return tuple(group.lost.get(LOST_PARTS[part], 0) for part in parts)


def _strip(rows: Sequence[Row], column: Column, cell: Callable[[Row], Cell]) -> Strip:
    return Strip(column=column, cells=tuple(map(cell, rows)))


def _top1_strip(rows: Sequence[Row], spread: Spread) -> Strip:
    parts = ("top1_mean", f"top1_{SPREAD_PARTS[spread]}")
    column = Column(title="top-1 (%)", parts=parts, align="plus-minus")
    return _strip(rows, column, lambda row: mean_cell(row.group.summary, spread))


def _n_strip(rows: Sequence[Row]) -> Strip:
    lost = lost_parts([row.group for row in rows])

    def cell(row: Row) -> Cell:
        counts = (len(row.group.counted), len(row.group.runs))
        return Cell(text=count_text(row.group), values=(*counts, *lost_counts(row.group, lost)))

    return _strip(rows, Column(title="n", parts=("n", "num_planned", *lost)), cell)


def _baseline_strips(rows: Sequence[Row]) -> list[Strip]:
    return [
        _strip(
            rows,
            Column(title=f"Δ {BASELINE_METHOD}", parts=("difference", "difference_ci95")),
            lambda row: _difference_cell(row.against_baseline),
        ),
        _strip(
            rows,
            Column(title=f"vs {BASELINE_METHOD}", parts=("verdict", "p"), align="left"),
            lambda row: _verdict_cell(row.against_baseline),
        ),
    ]


def _reported_strips(rows: Sequence[Row]) -> list[Strip]:
    parts = ("published_mean", "published_std", "published_n", "published_source")
    return [
        _strip(rows, Column(title="published", parts=parts, align="plus-minus"), _reported_cell),
        _strip(
            rows,
            Column(title="Δ published", parts=("published_difference", "published_difference_ci95")),
            lambda row: _difference_cell(row.against_reported),
        ),
        _strip(
            rows,
            Column(title="vs published", parts=("published_verdict", "published_p"), align="left"),
            lambda row: _verdict_cell(row.against_reported),
        ),
    ]


def _fact_strips(rows: Sequence[Row]) -> list[Strip]:
    """Return the columns of what is the same for all seeds of a row."""
    return [
        _fact_strip(rows, Column(title="teacher (%)", parts=("teacher_top1",)), _teacher_top1),
        _fact_strip(rows, Column(title="params (M)", parts=("parameters",)), _parameters),
        _fact_strip(rows, Column(title="pruned (%)", parts=("pruning_percent",)), _pruning),
    ]


def _fact_strip(rows: Sequence[Row], column: Column, fact: Callable[[RunResult], float | None]) -> Strip:
    return _strip(rows, column, lambda row: _fact_cell(row.group, fact))


def _fact_cell(group: Replicates, fact: Callable[[RunResult], float | None]) -> Cell:
    """Accuracies and ratios have two decimals; counts are given in millions, with three."""
    facts = {fact(run.result) for run in group.counted if run.result}
    if len(facts) > 1:
        return Cell(text="varies", values=(None,))
    value = next(iter(facts), None)
    if value is None:
        return Cell(text=NOTHING, values=(None,))
    text = f"{value / 1e6:.3f}" if isinstance(value, int) else f"{value:.2f}"
    return Cell(text=text, values=(rounded(value),))


def _teacher_top1(result: RunResult) -> float | None:
    return result.teacher_test_top1


def _parameters(result: RunResult) -> int:
    return result.facts.shipped_parameters


def _pruning(result: RunResult) -> float | None:
    return result.facts.pruning_percent


def _difference_cell(comparison: Comparison | None) -> Cell:
    if comparison is None:
        return Cell(text=NOTHING, values=(None, None))
    values = (rounded(comparison.difference), rounded(comparison.half_width))
    return Cell(text=signed(comparison.difference), values=values)


def _verdict_cell(comparison: Comparison | None) -> Cell:
    if comparison is None or comparison.verdict is None or comparison.p is None:
        return Cell(text=NOTHING, values=(None, None))
    text = verdict_and_p(comparison.verdict, comparison.p)
    return Cell(text=text, values=(comparison.verdict.value, rounded(comparison.p)))


def _reported_cell(row: Row) -> Cell:
    if row.reported is None:
        return Cell(text=NOTHING, values=(None,) * 4)
    summary = row.reported.summary
    return Cell(
        text=mean_and_spread(summary) + mark_of(row),
        values=(summary.mean, summary.std, summary.n, row.reported.source or None),
    )


def mark_of(row: Row) -> str:
    """Return the footnote marks of a row's published number."""
    if row.reported is None:
        return ""
    unlike = "" if row.is_like_for_like else UNLIKE_MARK
    return unlike + ("" if row.reported.is_testable else UNTESTABLE_MARK)
