"""Runs grouped into what a table's row is made of: the same configuration with other seeds."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdctl.records import RunState, Selected, Selection, StoredRun
from kdctl.report.fields import (
    read_field,
    short_names,
    show_value,
    varying_fields,
    varying_versions,
    without_repeats,
)
from kdctl.report.statistics import Summary, summarize
from kdctl.report.table_format import Mark

Value = Any
"""What a field of a plan holds: text, number, bool, a tuple of these, or None."""

LOST_STATES = (RunState.DIVERGED, RunState.FAILED, RunState.PRUNED)


def selected_epoch(run: StoredRun, select: Selection) -> Selected | None:
    """Return the numbers of the epoch that `select` picks; None unless the run finished and has them.

    An accuracy that is no number, which no training gives, counts as none.
    """
    if run.state is not RunState.FINISHED or run.result is None:
        return None
    found = run.result.selected.get(select)
    return found if found is not None and math.isfinite(found.test.top1) else None


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """Runs that share a row."""

    values: tuple[Value, ...]
    """Of the fields that the table shows."""
    runs: tuple[StoredRun, ...]
    """All of them, whatever became of them."""
    counted: tuple[StoredRun, ...]
    """Those that finished and have the selected epoch: the only ones in the mean."""
    selected: tuple[Selected, ...]
    """That epoch of each counted run."""
    top1: tuple[float, ...]
    """Test accuracy of each counted run, in percent."""
    mark: Mark = Mark.NONE
    """Whether it is among the best of its table, where that was asked."""

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan of the first run."""
        return self.runs[0].plan

    @functools.cached_property
    def plans(self) -> Sequence[Mapping[str, Any]]:
        """The plans of all runs, apart from their seeds: of one configuration a single one."""
        return without_repeats(run.plan for run in self.runs)

    @functools.cached_property
    def summary(self) -> Summary | None:
        """n, mean and std of the top-1 accuracy; None when no run counts."""
        return summarize(self.top1) if self.top1 else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the top-1 accuracy; None below two runs."""
        return self.summary.std if self.summary else None

    @functools.cached_property
    def lost(self) -> dict[RunState, int]:
        """How many runs diverged, failed or were pruned."""
        counts = Counter(run.state for run in self.runs)
        return {state: counts[state] for state in LOST_STATES if counts[state]}

    @functools.cached_property
    def missing(self) -> dict[str, int]:
        """How many runs may still come, by state; 'finished' are those without the selected epoch."""
        counted = {run.key for run in self.counted}
        return dict(
            Counter(
                run.state.value
                for run in self.runs
                if run.key not in counted and run.state not in LOST_STATES
            )
        )

    @functools.cached_property
    def is_pooled(self) -> bool:
        """Whether more than one configuration ended in this row."""
        return len({run.configuration for run in self.runs}) > 1


def group_by_configuration(
    runs: Sequence[StoredRun], fields: Sequence[str], select: Selection
) -> list[Replicates]:
    """Return one group for each configuration, in the order of a table (see `in_table_order`)."""
    return _group(runs, fields, select, key=lambda run: run.configuration)


def group_by_fields(runs: Sequence[StoredRun], fields: Sequence[str], select: Selection) -> list[Replicates]:
    """Return one group for each combination of the fields' values, in the order of a table."""
    return _group(runs, fields, select, key=lambda run: _values(run, fields))


def in_table_order(values: Sequence[tuple[Value, ...]]) -> list[tuple[Value, ...]]:
    """Sort rows field by field: numbers by size, all else by first appearance, 'ce' (no teacher) first."""
    ranks = [_ranks([row[place] for row in values]) for place in range(len(values[0]))] if values else []
    return sorted(values, key=lambda row: [ranks[place][value] for place, value in enumerate(row)])


def _group(
    runs: Sequence[StoredRun],
    fields: Sequence[str],
    select: Selection,
    *,
    key: Callable[[StoredRun], Any],
) -> list[Replicates]:
    members: dict[Any, list[StoredRun]] = {}
    for run in runs:
        members.setdefault(key(run), []).append(run)
    groups = [_replicates(group, fields, select) for group in members.values()]
    rank = {values: place for place, values in enumerate(in_table_order([g.values for g in groups]))}
    return sorted(groups, key=lambda group: rank[group.values])


def _replicates(runs: Sequence[StoredRun], fields: Sequence[str], select: Selection) -> Replicates:
    selected = [(run, epoch) for run in runs if (epoch := selected_epoch(run, select)) is not None]
    return Replicates(
        values=_values(runs[0], fields),
        runs=tuple(runs),
        counted=tuple(run for run, _ in selected),
        selected=tuple(epoch for _, epoch in selected),
        top1=tuple(epoch.test.top1 for _, epoch in selected),
    )


def _values(run: StoredRun, fields: Sequence[str]) -> tuple[Value, ...]:
    return tuple(read_field(run.plan, field) for field in fields)


def _ranks(column: Sequence[Value]) -> dict[Value, tuple[int, float]]:
    """None comes first, then 'ce', then numbers by size, then the rest as it appeared."""
    ranks: dict[Value, tuple[int, float]] = {None: (0, 0.0), "ce": (1, 0.0)}
    for place, value in enumerate(dict.fromkeys(column)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        ranks.setdefault(value, (2, float(value)) if is_number else (3, float(place)))
    return ranks


_MAX_VALUES = 6
_TEACHER = re.compile(r"teachers\.\d+\.name")


def pooled_over(group: Replicates) -> str:
    """Return the settings that differ within a group: 'learning rate (0.05, 0.1)'; empty if none does."""
    if not group.is_pooled:
        return ""
    plans = group.plans
    settings = (_TEACHER.sub("teachers", field) for field in varying_fields(plans))
    fields = list(dict.fromkeys([*settings, *varying_versions(plans)]))
    names = short_names(fields)
    described: list[str] = []
    for field in fields:
        values = list(dict.fromkeys(show_value(read_field(plan, field)) for plan in plans))
        listed = ", ".join(values[:_MAX_VALUES])
        more = f", and {len(values) - _MAX_VALUES} more" if len(values) > _MAX_VALUES else ""
        described.append(f"{names[field].replace('_', ' ')} ({listed}{more})")
    return ", ".join(described) or "the teacher's run"
