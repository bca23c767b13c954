"""The columns of a table with one row for each configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdctl.report.baseline import BASELINE_METHOD, Comparison
from kdctl.report.cells import FilledColumn, field_column, mean_column, n_column
from kdctl.report.layout import Layout
from kdctl.report.measures import MEASURES, TOP1, Measure, values_of
from kdctl.report.replicates import Replicates
from kdctl.report.rows import Row, shared_differences
from kdctl.report.table_format import Cell, Column
from kdctl.report.wording import NOTHING, duration, mean_and_spread, rounded, signed, verdict_words

UNTESTABLE_MARK = "†"
"""Published without std or number of trials."""
UNLIKE_MARK = "‡"
"""Published under another selection rule."""
CHOSEN = "best {name}"
"""Heads a setting that was chosen."""

_FACTS = ("teacher_top1", "parameters", "pruning_percent", "flops")
"""Values that are the same for all seeds of a row."""


def table_columns(rows: Sequence[Row], layout: Layout) -> list[FilledColumn]:
    """Return the columns of the table; those that would be empty are left out."""
    groups = [row.group for row in rows]
    fields = [
        field_column(
            name,
            [group.values[place] for group in groups],
            heading=CHOSEN.format(name=name.replace("_", " ")) if field in layout.chosen else "",
        )
        for place, (field, name) in enumerate(zip(layout.fields, layout.names, strict=True))
    ]
    if layout.values:
        return [*fields, *(mean_column(groups, layout, value) for value in layout.values), n_column(groups)]
    results = [mean_column(groups, layout, TOP1), n_column(groups)]
    if layout.beside == "published":
        return [*fields, *results, *_against_columns(rows, layout)]
    facts = [
        *(_fact_column(groups, layout, MEASURES[name]) for name in _FACTS),
        _time_column(groups, layout),
    ]
    beside = [
        mean_column(groups, layout, MEASURES["val_top1"]),
        *_comparison_columns([row.against_baseline for row in rows], BASELINE_METHOD, layout),
        *_comparison_columns([row.against_best for row in rows], "best", layout, prefix="best_"),
        *(facts if layout.beside == "facts" else ()),
        *_reported_columns(rows, layout),
    ]
    return [*fields, *results, *(column for column in beside if not column.is_empty)]


def mark_of(row: Row) -> str:
    """Return the footnote marks of a row's published number."""
    if row.reported is None or row.differences:
        return ""
    unlike = "" if row.is_like_for_like else UNLIKE_MARK
    return unlike + ("" if row.reported.is_testable else UNTESTABLE_MARK)


def _column(rows: Sequence[Row], column: Column, cell: Callable[[Row], Cell]) -> FilledColumn:
    return FilledColumn(column=column, cells=tuple(map(cell, rows)))


def _comparison_columns(
    comparisons: Sequence[Comparison | None], other: str, layout: Layout, *, prefix: str = ""
) -> list[FilledColumn]:
    """Return difference and verdict of each row against `other`."""
    names = [f"{prefix}{part}" for part in ("verdict", "p", "test", "more_seeds")]
    return [
        FilledColumn(
            column=_difference_column(other, prefix, layout),
            cells=tuple(_difference_cell(comparison, layout) for comparison in comparisons),
        ),
        FilledColumn(
            column=Column(title=f"vs {other}", parts=tuple(names), align="left"),
            cells=tuple(map(_verdict_cell, comparisons)),
        ),
    ]


def _difference_column(other: str, prefix: str, layout: Layout) -> Column:
    parts = (f"{prefix}difference", f"{prefix}difference_ci95")
    return Column(title=f"Δ {other}", parts=parts, align="plus-minus" if layout.intervals else "right")


def _reported_columns(rows: Sequence[Row], layout: Layout) -> list[FilledColumn]:
    parts = ("published_mean", "published_std", "published_n", "published_source")
    unlike = ("published_unlike",) if any(row.differences for row in rows) else ()
    told = bool(shared_differences(rows))
    return [
        _column(rows, Column(title="published", parts=parts, align="plus-minus"), _reported_cell),
        _column(
            rows,
            _difference_column("published", "published_", layout),
            lambda row: _difference_cell(row.against_reported, layout),
        ),
        _column(
            rows,
            Column(title="vs published", parts=("published_verdict", "published_p", *unlike), align="left"),
            lambda row: _reported_verdict_cell(row, told=told, num_parts=2 + len(unlike)),
        ),
    ]


def _against_columns(rows: Sequence[Row], layout: Layout) -> list[FilledColumn]:
    """Return theirs, its n, the difference, whether the two may be compared, and the test."""
    published, difference, verdict = _reported_columns(rows, layout)
    return [
        published,
        _column(rows, Column(title="n published", parts=("published_num_trials",)), _num_trials_cell),
        difference,
        _column(rows, Column(title="comparable", parts=("comparable",), align="left"), _comparable_cell),
        verdict,
    ]


def _num_trials_cell(row: Row) -> Cell:
    number = row.reported.summary.n if row.reported else None
    return Cell(text=NOTHING if number is None else str(number), values=(number,))


def _comparable_cell(row: Row) -> Cell:
    if row.reported is None:
        return Cell(text=NOTHING, values=(None,))
    if row.differences:
        return Cell(text="no", values=(False,))
    return Cell(text="yes" if row.is_like_for_like else f"but for the epoch{UNLIKE_MARK}", values=(True,))


def _fact_column(groups: Sequence[Replicates], layout: Layout, measure: Measure) -> FilledColumn:
    column = Column(title=measure.title, parts=(measure.name,))
    return FilledColumn(column=column, cells=tuple(_fact_cell(group, layout, measure) for group in groups))


def _fact_cell(group: Replicates, layout: Layout, measure: Measure) -> Cell:
    facts = set(values_of(group, measure, layout.evaluations))
    if len(facts) > 1:
        return Cell(text="varies", values=(None,))
    value = next(iter(facts), None)
    if value is None:
        return Cell(text=NOTHING, values=(None,))
    return Cell(text=f"{value / measure.scale:.{measure.decimals}f}", values=(rounded(value),))


def _time_column(groups: Sequence[Replicates], layout: Layout) -> FilledColumn:
    """Return the mean training time of a run; in a gang several share it."""
    times = [values_of(group, MEASURES["seconds"], layout.evaluations) for group in groups]
    means = [sum(seconds) / len(seconds) if seconds else None for seconds in times]
    cells = tuple(
        Cell(
            text=NOTHING if mean is None else duration(mean),
            values=(None if mean is None else round(mean, 1),),
        )
        for mean in means
    )
    return FilledColumn(column=Column(title="time", parts=("seconds",)), cells=cells)


def _difference_cell(comparison: Comparison | None, layout: Layout) -> Cell:
    if comparison is None:
        return Cell(text=NOTHING, values=(None, None))
    values = (rounded(comparison.difference), rounded(comparison.half_width))
    text = signed(comparison.difference)
    if layout.intervals:
        width = comparison.half_width
        text += f" ± {NOTHING if width is None else f'{width:.2f}'}"
    return Cell(text=text, values=values)


def _verdict_cell(comparison: Comparison | None) -> Cell:
    if comparison is None or comparison.verdict is None or comparison.p is None:
        return Cell(text=NOTHING, values=(None,) * 4)
    text = verdict_words(comparison.verdict, comparison.p, comparison.more_seeds)
    test = comparison.test.value if comparison.test else None
    return Cell(
        text=text, values=(comparison.verdict.value, rounded(comparison.p), test, comparison.more_seeds)
    )


def _reported_verdict_cell(row: Row, *, told: bool, num_parts: int) -> Cell:
    """Word how a row compares with what is published; `told`, a note says why it cannot."""
    if row.differences:
        unlike, words = ", ".join(row.differences), "not comparable"
        return Cell(text=words if told else f"{words}: {unlike}", values=(words, None, unlike))
    cell = _verdict_cell(row.against_reported)
    return Cell(text=cell.text, values=(*cell.values[:2], None)[:num_parts])  # the test is always Welch's


def _reported_cell(row: Row) -> Cell:
    if row.reported is None:
        return Cell(text=NOTHING, values=(None,) * 4)
    summary = row.reported.summary
    return Cell(
        text=mean_and_spread(summary) + mark_of(row),
        values=(summary.mean, summary.std, summary.n, row.reported.source or None),
    )
