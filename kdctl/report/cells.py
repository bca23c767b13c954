"""Cells and columns that several kinds of tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdctl.records import RunState
from kdctl.report.fields import show_value
from kdctl.report.layout import Layout
from kdctl.report.measures import TOP1, Measure, summary_of, values_of
from kdctl.report.replicates import Replicates, Value, pooled_over
from kdctl.report.statistics import Spread, Summary, spread_of
from kdctl.report.table_format import Cell, Column, Mark, Number
from kdctl.report.wording import NOTHING, mean_and_spread, rounded, title

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
"""Raw columns that say why n is smaller than what was planned."""
MISSING_PART = "num_missing"
POOLED_PART = "pooled_over"
POOLED_MARK = "§"
"""A mean over several configurations."""


@dataclass(frozen=True, kw_only=True)
class FilledColumn:
    """A column with its cells, top to bottom."""

    column: Column
    cells: tuple[Cell, ...]

    @property
    def is_empty(self) -> bool:
        """Whether no cell holds a value."""
        return all(value is None for cell in self.cells for value in cell.values)


def field_column(name: str, values: Iterable[Value], *, heading: str = "") -> FilledColumn:
    """Return the column of one field of the recipe: numbers flush right, names flush left."""
    values = tuple(values)
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    raw = [show_value(value) if isinstance(value, tuple) else value for value in values]
    return FilledColumn(
        column=Column(
            title=heading or title(name),
            parts=(name,),
            align="right" if are_numbers else "left",
            identifies=True,
        ),
        cells=tuple(Cell(text=show_value(value), values=(value,)) for value in raw),
    )


def mean_parts(measure: Measure, spread: Spread) -> tuple[str, str]:
    """Return the names of a mean and its spread in raw formats."""
    return f"{measure.name}_mean", f"{measure.name}_{SPREAD_PARTS[spread]}"


def known_part(groups: Iterable[Replicates | None], layout: Layout, measure: Measure) -> tuple[str, ...]:
    """Return the name of the raw column that says of how many runs a value is known; none if always of all.

    What `kdctl eval` finds is known of the runs that it has looked at.
    """
    is_partly_known = any(group is not None and num_known(group, layout, measure) for group in groups)
    return (f"{measure.name}_n",) if is_partly_known else ()


def num_known(group: Replicates, layout: Layout, measure: Measure) -> int:
    """Return of how many counted runs a value is known; 0 if of all or of none of them."""
    number = num_values(group, layout, measure)
    return number if number < len(group.counted) else 0


def num_values(group: Replicates, layout: Layout, measure: Measure) -> int:
    """Return of how many runs a value is known."""
    return len(values_of(group, measure, layout.evaluations))


def mean_column(groups: Sequence[Replicates], layout: Layout, measure: Measure) -> FilledColumn:
    """Return the column of the means of a value, with n where it is not that of the row."""
    known = known_part(groups, layout, measure)
    cells: list[Cell] = []
    for group in groups:
        cell = mean_cell(group, layout, measure)
        number = num_known(group, layout, measure)
        text = f"{cell.text} (n = {number})" if number else cell.text
        told = (num_values(group, layout, measure) for _ in known)
        cells.append(Cell(text=text, values=(*cell.values, *told), mark=cell.mark))
    column = Column(
        title=measure.title, parts=(*mean_parts(measure, layout.spread), *known), align="plus-minus"
    )
    return FilledColumn(column=column, cells=tuple(cells))


def mean_cell(group: Replicates, layout: Layout, measure: Measure = TOP1) -> Cell:
    """Return the cell of a mean with its spread, marked if it pools configurations."""
    summary = summary_of(group, measure, layout.evaluations)
    values = (summary.mean, spread_of(summary, layout.spread)) if summary else (None, None)
    mark = POOLED_MARK if summary and group.is_pooled else ""
    text = measured_text(summary, measure, layout.spread)
    return Cell(
        text=text + mark,
        values=tuple(map(rounded, values)),
        mark=group.mark if measure is TOP1 else Mark.NONE,
    )


def measured_text(summary: Summary | None, measure: Measure, spread: Spread) -> str:
    """Word a mean with its spread; one number where it is the same for all runs by its nature."""
    if summary is None:
        return NOTHING
    scaled = Summary(
        n=summary.n,
        mean=summary.mean / measure.scale,
        std=None if summary.std is None else summary.std / measure.scale,
    )
    if measure.higher_is_better is None and not scaled.std:
        return f"{scaled.mean:,.{measure.decimals}f}"
    return mean_and_spread(scaled, spread, decimals=measure.decimals)


def count_text(group: Replicates) -> str:
    """Word how many runs are in the mean: '3', or '2 of 3' when some are missing."""
    counted, planned = len(group.counted), len(group.runs)
    return str(counted) if counted == planned else f"{counted} of {planned}"


def condition_parts(groups: Iterable[Replicates]) -> tuple[str, ...]:
    """Return the raw columns that say what a mean lacks or pools: only what happens in some of the groups."""
    groups = tuple(groups)
    states = {state for group in groups for state in group.lost}
    return (
        *(part for part, state in LOST_PARTS.items() if state in states),
        *((MISSING_PART,) if any(group.missing for group in groups) else ()),
        *((POOLED_PART,) if any(group.is_pooled for group in groups) else ()),
    )


def conditions(group: Replicates, parts: Sequence[str]) -> tuple[Number, ...]:
    """Return what the mean of a group lacks or pools, for `parts` of `condition_parts`."""
    known: dict[str, Number] = {part: group.lost.get(state, 0) for part, state in LOST_PARTS.items()}
    known |= {MISSING_PART: sum(group.missing.values()), POOLED_PART: pooled_over(group) or None}
    return tuple(known[part] for part in parts)


def n_column(groups: Sequence[Replicates]) -> FilledColumn:
    """Return the column that says how many runs stand behind each row, and what became of the others."""
    parts = condition_parts(groups)
    cells = tuple(
        Cell(
            text=count_text(group),
            values=(len(group.counted), len(group.runs), *conditions(group, parts)),
        )
        for group in groups
    )
    return FilledColumn(column=Column(title="n", parts=("n", "num_planned", *parts)), cells=cells)
