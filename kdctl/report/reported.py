"""Numbers that others published, and the rows of ours they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kdctl.errors import UsageError, suggestion
from kdctl.recipe.reporting import ReportedNumber, reported_numbers
from kdctl.records import Selection
from kdctl.registry import folded
from kdctl.report.fields import flatten, read_field, resolve_field
from kdctl.report.layout import read_selection
from kdctl.report.replicates import Replicates, Value
from kdctl.report.statistics import Summary

_TASK_FIELDS = ("data.name", "teachers", "student.name")
"""What a number is about; a sweep that does not have it lacks nothing without that number."""

_KEYS = tuple(item.name for item in fields(ReportedNumber))


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One published number, as a recipe's `[[reported]]` gives it."""

    label: str
    match: Mapping[str, Value]
    """Fields and values that a row must have."""
    summary: Summary
    """Top-1 test accuracy in percent; std and n None where the source is silent."""
    select: Selection | None
    """None: the source does not say."""
    protocol: str | None
    source: str

    @property
    def is_testable(self) -> bool:
        """Whether std and number of trials are known."""
        return self.summary.std is not None and self.summary.n is not None

    def is_like_for_like(self, row: Replicates, select: Selection) -> bool:
        """Whether it was got under the row's protocol and selection rule, as far as the source says."""
        protocols = {run.plan.get("protocol") for run in row.runs}
        return self.select in (None, select) and (self.protocol is None or protocols == {self.protocol})


def read_reported(recipe: Mapping[str, Any]) -> tuple[Reported, ...]:
    """Read the `[[reported]]` tables of a recipe's tree.

    Raises:
        UsageError: a key is unknown, or `top1` or `match` is missing.
    """
    numbers = reported_numbers(recipe.get("reported", ()))
    return tuple(_read_one(table, place) for place, table in enumerate(numbers, start=1))


def find_reported(
    row: Replicates, reported: Iterable[Reported], known: Sequence[str], select: Selection
) -> Reported | None:
    """Return the published number that fits `row` best: the most fields matched, then like for like."""
    fitting = [item for item in reported if all(_fits(row, *pair, known) for pair in item.match.items())]
    return max(fitting, key=lambda item: (len(item.match), item.is_like_for_like(row, select)), default=None)


def without_row(
    reported: Iterable[Reported], used: Sequence[Reported], rows: Sequence[Replicates], known: Sequence[str]
) -> list[Reported]:
    """Return the published numbers that stand beside none of `rows`, though about their data and models."""
    return [item for item in reported if item not in used and _is_about_one(item, rows, known)]


def _is_about_one(item: Reported, rows: Sequence[Replicates], known: Sequence[str]) -> bool:
    task = [pair for pair in item.match.items() if _resolved(pair[0], known) in _TASK_FIELDS]
    return all(any(_fits(row, *pair, known) for row in rows) for pair in task)


def _fits(row: Replicates, name: str, wanted: Value, known: Sequence[str]) -> bool:
    field = _resolved(name, known)
    if field is None:
        return False  # a paper's table is wider than what was run here
    return all(_comparable(read_field(run.plan, field)) == _comparable(wanted) for run in row.runs)


def _resolved(name: str, known: Sequence[str]) -> str | None:
    try:
        return resolve_field(name, known)
    except UsageError:
        return None


def _comparable(value: Value) -> Value:
    """Papers and recipes spell names differently: ResNet-8x4, resnet8x4."""
    return folded(value) if isinstance(value, str) else value


def _read_one(table: Mapping[str, Any], place: int) -> Reported:
    where = f"[[reported]] {place} ({table.get('label') or table.get('source') or 'no label'})"
    for key in table:
        if key not in _KEYS:
            raise UsageError(f"{where} has no option '{key}'.", suggestion(key, _KEYS, "Options"))
    for key in ("match", "top1"):
        if key not in table:
            raise UsageError(f"{where} has no '{key}'.", f"add `{key}`, or remove the table.")
    select = table.get("select")
    return Reported(
        label=table.get("label", ""),
        match=flatten(table["match"]),
        summary=Summary(n=table.get("num_trials"), mean=float(table["top1"]), std=table.get("std")),
        select=None if select is None else read_selection(select),
        protocol=table.get("protocol"),
        source=table.get("source", ""),
    )
