"""Which runs a table is made of, by their settings: `--where method=kd,simkd`."""

from __future__ import annotations

from collections.abc import Sequence

from kdctl.errors import KdctlError, UsageError, nearest_name
from kdctl.records import StoredRun
from kdctl.registry import folded
from kdctl.report.fields import known_fields, read_field, resolve_field, show_value
from kdctl.report.replicates import Value

NONE = "none"
"""Asks for runs that do not have the field."""


def only_where(runs: Sequence[StoredRun], conditions: Sequence[str]) -> list[StoredRun]:
    """Return the runs that meet all conditions, each 'field=value' or 'field=value,value'.

    Names are compared as registries do (ResNet-8x4 is resnet8x4), numbers by size; 'none' is for a run
    without the field.

    Raises:
        UsageError: a condition names no field, or a value that no run has.
        KdctlError: no run meets all of them.
    """
    known = known_fields(run.plan for run in runs)
    left = list(runs)
    for condition in conditions:
        name, equals, listed = condition.partition("=")
        if not equals or not listed:
            raise UsageError(
                f"--where {condition} is no field=value.", "write it as: --where method=kd,simkd"
            )
        field = resolve_field(name.strip(), known)
        wanted = [word.strip() for word in listed.split(",")]
        values = list(dict.fromkeys(read_field(run.plan, field) for run in runs))
        for word in wanted:
            if not any(_means(word, value) for value in values):
                raise UsageError(f"no run has {name}={word}.", _hint(word, values))
        left = [run for run in left if any(_means(word, read_field(run.plan, field)) for word in wanted)]
    if not left and runs:
        raise KdctlError(
            f"no run meets all of: {', '.join(conditions)}.",
            "leave one out, or look at all: kdctl list runs.",
        )
    return left


def _means(word: str, value: Value) -> bool:
    if value is None or isinstance(value, (bool, tuple)):
        return folded(word) == folded(NONE if value is None else show_value(value))
    if isinstance(value, (int, float)):
        try:
            return float(word) == float(value)
        except ValueError:
            return False
    return folded(word) == folded(str(value)) or word == str(value)


def _hint(word: str, values: Sequence[Value]) -> str:
    shown = sorted({NONE if value is None else show_value(value) for value in values})
    near = nearest_name(word, shown)
    listing = f"There are: {', '.join(shown[:20])}{', ...' if len(shown) > 20 else ''}."
    return f"did you mean '{near}'? {listing}" if near else listing
