"""Who is a student and who a teacher among the runs of a table, and whether there is anything to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kdctl.errors import KdctlError
from kdctl.records import RunState, Selection, StoredRun, StoredSweep
from kdctl.report.replicates import selected_epoch


def by_role(
    runs: Sequence[StoredRun], sweeps: Sequence[StoredSweep]
) -> tuple[list[StoredRun], list[StoredRun]]:
    """Return students and teachers; a run that is both is a student, and teachers alone are shown as such.

    Of runs that belong to no sweep, those that teach others here are teachers.
    """
    members = [member for sweep in sweeps for member in sweep.members]
    students = {member.run_key for member in members if member.role != "teacher"}
    teachers = {member.run_key for member in members if member.role == "teacher"} - students
    if not sweeps:
        teachers = {str(teacher.get("run")) for run in runs for teacher in run.plan.get("teachers", ())}
    if all(run.key in teachers for run in runs):
        return list(runs), []
    return [run for run in runs if run.key not in teachers], [run for run in runs if run.key in teachers]


def require_numbers(runs: Sequence[StoredRun], select: Selection, *, unfinished_count: bool = False) -> None:
    """Raise unless there is at least one number to show, or a run where these count as well."""
    if any(selected_epoch(run, select) for run in runs) or (unfinished_count and runs):
        return
    if not runs:
        raise KdctlError("there are no runs to report.", "train some: `kdctl train` or `kdctl sweep`.")
    if any(run.state is RunState.FINISHED for run in runs):
        available = sorted({rule for run in runs if run.result for rule in run.result.selected})
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
