"""Numbers that others published, and the rows of ours they belong to."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from kdctl.errors import UsageError, suggestion
from kdctl.recipe.load import preset_layers
from kdctl.recipe.report_section import ReportedNumber, reported_numbers
from kdctl.recipe.shipped import preset_names
from kdctl.records import Selection
from kdctl.registry import folded
from kdctl.report.fields import flatten, read_field, resolve_field
from kdctl.report.layout import Layout, read_selection
from kdctl.report.replicates import Replicates, Value
from kdctl.report.statistics import Summary
from kdctl.report.subject import used_words

_TASK_FIELDS = ("data.name", "teachers", "student.name")
"""What a number is about; a sweep that does not have it lacks nothing without that number."""

_USED = ("num_classes", "samples_per_class", "val_fraction")
"""Options of data that leave some of them out."""

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
    epochs: int | None
    """Length of training; None: the source does not say, and its protocol is none of ours."""
    source: str

    @property
    def is_testable(self) -> bool:
        """Whether std and number of trials are known."""
        return self.summary.std is not None and self.summary.n is not None

    def is_like_for_like(self, select: Selection) -> bool:
        """Whether it was got by the same selection rule, as far as the source says."""
        return self.select in (None, select)

    def differences(self, row: Replicates, totals: Mapping[str, int]) -> tuple[str, ...]:
        """Return in what the row is about something else, so that the two cannot be compared.

        What the number says nothing of is taken to be as usual: all classes, all images, random weights to
        start from, the length of its protocol.

        Args:
            row: whose fields the number fits.
            totals: number of classes of data sets, where it is known.
        """
        return tuple(dict.fromkeys(words for run in row.runs for words in self._unlike(run.plan, totals)))

    def _unlike(self, plan: Mapping[str, Any], totals: Mapping[str, int]) -> Iterator[str]:
        asked = {name.rpartition(".")[2] for name in self.match}
        unasked = [f"data.{name}" for name in _USED if name not in asked]
        yield from used_words(plan, unasked, totals)
        if "weights" not in asked and read_field(plan, "student.weights") is not None:
            yield "started from weights"
        protocol, epochs = plan.get("protocol"), read_field(plan, "schedule.epochs")
        if self.protocol is not None and protocol != self.protocol:
            yield f"protocol {protocol}, not {quoted(self.protocol)}"
        if self.epochs is not None and "epochs" not in asked and epochs != self.epochs:
            yield f"{epochs} of {self.epochs} epochs"


def quoted(protocol: str) -> str:
    """Quote what a source says of its protocol in words of its own: 'simkd, but for 200 epochs'."""
    return f"'{protocol}'" if " " in protocol else protocol


def read_reported(recipe: Mapping[str, Any]) -> tuple[Reported, ...]:
    """Read the `[[reported]]` tables of a recipe's tree.

    Raises:
        UsageError: a key is unknown, or `top1` or `match` is missing.
    """
    numbers = reported_numbers(recipe.get("reported", ()))
    return tuple(_read_one(table, place) for place, table in enumerate(numbers, start=1))


def find_reported(
    row: Replicates, reported: Iterable[Reported], known: Sequence[str], layout: Layout
) -> Reported | None:
    """Return the published number that fits `row` best: comparable, most fields matched, like for like."""
    fitting = [item for item in reported if _fits_all(row, item, known)]

    def rank(item: Reported) -> tuple[bool, int, bool]:
        comparable = not item.differences(row, layout.totals)
        return comparable, len(item.match), item.is_like_for_like(layout.select)

    return max(fitting, key=rank, default=None)


def without_row(
    reported: Iterable[Reported], used: Sequence[Reported], rows: Sequence[Replicates], known: Sequence[str]
) -> list[Reported]:
    """Return the published numbers that fit none of `rows`, though about their data and models.

    One that fits a row beside which a better number stands, such as the same one of another source, is not
    among them.
    """
    unused = [item for item in reported if item not in used and _is_about_one(item, rows, known)]
    return [item for item in unused if not any(_fits_all(row, item, known) for row in rows)]


def untold_settings(
    groups: Sequence[Replicates], matches: Sequence[Reported | None], names: Sequence[str]
) -> list[str]:
    """Return the settings in which rows differ that one number stands beside: it is of one of these at most.

    Args:
        groups: of the rows.
        matches: the published number of each.
        names: of the groups' values.
    """
    untold: set[str] = set()
    for item in {id(item): item for item in matches if item}.values():
        beside = [group.values for group, match in zip(groups, matches, strict=True) if match is item]
        untold |= {
            name
            for name, values in zip(names, zip(*beside, strict=True), strict=True)
            if len(set(values)) > 1
        }
    return [name for name in names if name in untold and name != "seed"]


def _is_about_one(item: Reported, rows: Sequence[Replicates], known: Sequence[str]) -> bool:
    task = [pair for pair in item.match.items() if _resolved(pair[0], known) in _TASK_FIELDS]
    return all(any(_fits(row, *pair, known) for row in rows) for pair in task)


def _fits_all(row: Replicates, item: Reported, known: Sequence[str]) -> bool:
    return all(_fits(row, *pair, known) for pair in item.match.items())


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
    select, protocol = table.get("select"), table.get("protocol")
    return Reported(
        label=table.get("label", ""),
        match=flatten(table["match"]),
        summary=Summary(n=table.get("num_trials"), mean=float(table["top1"]), std=table.get("std")),
        select=None if select is None else read_selection(select),
        protocol=protocol,
        epochs=table.get("epochs") or _usual_epochs(protocol),
        source=table.get("source", ""),
    )


@functools.cache
def _usual_epochs(protocol: str | None) -> int | None:
    """Return how long a preset of ours trains; None for other protocols."""
    if protocol not in preset_names():
        return None
    lengths = [layer.values.get("schedule", {}).get("epochs") for layer in preset_layers(protocol)]
    return next((length for length in reversed(lengths) if length is not None), None)
