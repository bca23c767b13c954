"""Which runs a table shows: chosen by their settings, and parted into students and teachers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kdctl.errors import KdctlError, UsageError, nearest_name
from kdctl.records import RunState, Selection, StoredRun, StoredSweep
from kdctl.registry import folded
from kdctl.report.fields import known_fields, read_field, resolve_field, show_value
from kdctl.report.replicates import Value, selected_epoch


def by_role(
    runs: Sequence[StoredRun], sweeps: Sequence[StoredSweep]
) -> tuple[list[StoredRun], list[StoredRun]]:
    """Return students and teachers; a run that is both is a student, and teachers alone are shown as such.

    Of runs of no sweep, or of all, those that teach others here are teachers, unless other seeds of the same
    configuration teach nobody: these are replicates, and a mean lacks none of them.
    """
    members = [member for sweep in sweeps for member in sweep.members]
    students = {member.run_key for member in members if member.role != "teacher"}
    teachers = {member.run_key for member in members if member.role == "teacher"} - students
    if not sweeps:
        teaching = {str(teacher.get("run")) for run in runs for teacher in run.plan.get("teachers", ())}
        others = {run.configuration for run in runs if run.key not in teaching}
        teachers = {run.key for run in runs if run.key in teaching and run.configuration not in others}
    if all(run.key in teachers for run in runs):
        return list(runs), []
    return [run for run in runs if run.key not in teachers], [run for run in runs if run.key in teachers]


def teachers_of(students: Sequence[StoredRun], teachers: Sequence[StoredRun]) -> list[StoredRun]:
    """Return those of `teachers` that taught students, or taught teachers of theirs."""
    by_key = {run.key: run for run in teachers}
    taught, wanted = list(students), set[str]()
    while taught:
        keys = {str(teacher.get("run")) for run in taught for teacher in run.plan.get("teachers", ())}
        new = keys & by_key.keys() - wanted
        wanted |= new
        taught = [by_key[key] for key in new]
    return [run for run in teachers if run.key in wanted]


def require_numbers(runs: Sequence[StoredRun], select: Selection, *, unfinished_count: bool = False) -> None:
    """Raise unless there is at least one number to show, or a run where these count as well."""
    if any(selected_epoch(run, select) for run in runs) or (unfinished_count and runs):
        return
    if not runs:
        raise KdctlError("there are no runs to report.", "train some: `kdctl train` or `kdctl sweep`.")
    if any(run.state is RunState.FINISHED for run in runs):
        available = sorted({rule for run in runs if run.result for rule in run.result.selected})
        if select in available:
            raise KdctlError(
                "no finished run has an accuracy that is a number.",
                f"look at their epochs: kdctl runs show {runs[0].key}",
            )
        raise KdctlError(
            f"no finished run has a '{select}' epoch.",
            f"use another selection rule ({', '.join(available)}), or hold out a validation split.",
        )
    states = Counter(run.state for run in runs)
    counts = ", ".join(f"{count} {state.value}" for state, count in states.items())
    raise KdctlError(f"no run has finished: {counts}.", _what_to_do(runs, states))


def _what_to_do(runs: Sequence[StoredRun], states: Counter[RunState]) -> str:
    reasons = "; ".join(dict.fromkeys(run.reason for run in runs if run.reason))
    if set(states) == {RunState.DIVERGED}:
        return (
            f"train with a smaller learning rate, or with warm-up ({reasons}): change the recipe, or try "
            "-o optimizer.learning_rate=0.01 under another name."
        )
    if RunState.RUNNING in states:
        return "wait for the first to finish: `kdctl list runs --state running` shows how far they are."
    if reasons:
        return f"mend what stopped them ({reasons}), then run the sweep again."
    return "start the sweep again: it goes on where it stopped."


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
    left = list(runs)
    if not conditions:
        return left
    known = known_fields(run.plan for run in runs)
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
