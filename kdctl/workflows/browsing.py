"""Looking through stored runs: lists, one run in full, and what trains right now. Never loads torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError, suggestion
from kdctl.evaluation_records import Evaluation
from kdctl.files import is_gone
from kdctl.records import Artifact, EpochResult, RunState, StoredRun
from kdctl.registry import folded
from kdctl.store.briefs import RunBrief

_PERIODS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

ORDERS: dict[str, Callable[[RunBrief], Any]] = {
    "student": lambda run: run.student,
    "teacher": lambda run: run.teachers,
    "method": lambda run: run.method,
    "seed": lambda run: run.seed,
    "state": lambda run: list(RunState).index(run.state),
    "updated": lambda run: run.updated,
    "top1": lambda run: -1.0 if run.top1 is None else run.top1,
}
"""What a list may be sorted by, besides the order in which the runs were planned."""


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Which runs a list shows; all conditions must hold, an empty one always does."""

    states: Sequence[RunState] = ()
    method: str = ""
    student: str = ""
    teacher: str = ""
    """Architecture of any of its teachers."""
    sweep: str | None = None
    since: str = ""
    """Changed since then: a date, a date with a time (UTC), or a period such as '90m', '12h', '3d', '2w'."""


@dataclass(frozen=True, kw_only=True)
class RunDetails:
    """Everything that is stored about a run."""

    run: StoredRun
    epochs: tuple[EpochResult, ...]
    evaluations: tuple[Evaluation, ...]
    artifacts: tuple[Artifact, ...]
    """Files that it left behind at its end."""
    missing: frozenset[str]
    """Names of those that are not there any more."""
    sweeps: tuple[str, ...]
    """Names of the sweeps that it belongs to."""
    teaches: tuple[str, ...]
    """Keys of the runs that it is a teacher of."""


def list_runs(
    workspace: Workspace, chosen: RunFilter | None = None, *, order: str = "", descending: bool = False
) -> list[RunBrief]:
    """Return runs in the order in which they were planned or by a column: those that a filter lets through.

    Raises:
        UsageError: the order or the time does not exist.
        KdctlError: there is no such sweep.
    """
    if order and order not in ORDERS:
        raise UsageError(f"runs cannot be sorted by '{order}'.", suggestion(order, ORDERS, "Columns"))
    chosen = chosen or RunFilter()
    since = moment(chosen.since) if chosen.since else ""
    runs = [run for run in workspace.store.briefs(sweep=chosen.sweep, since=since) if _passes(run, chosen)]
    if order:
        return sorted(runs, key=ORDERS[order], reverse=descending)
    return runs[::-1] if descending else runs


def describe_run(workspace: Workspace, prefix: str) -> RunDetails:
    """Return everything that is known of the run whose key begins with `prefix`.

    Raises:
        KdctlError: no run, or more than one, has such a key.
    """
    store = workspace.store
    run = store.run(prefix)
    folder = workspace.folder(run.key).path
    artifacts = tuple(store.artifacts(run.key))
    return RunDetails(
        run=run,
        epochs=tuple(store.epochs(run.key)),
        evaluations=tuple(store.evaluations(run.key)),
        artifacts=artifacts,
        missing=frozenset(item.name for item in artifacts if is_gone(folder / item.name)),
        sweeps=tuple(store.sweeps_of([run.key]).get(run.key, ())),
        teaches=tuple(store.students_of([run.key]).get(run.key, ())),
    )


def moment(text: str) -> str:
    """Return a time as the store spells it: '3d' ago, a date, or a date with a time (UTC).

    Raises:
        UsageError: it is none of these.
    """
    period = re.fullmatch(r"(\d+)([mhdw])", text.strip())
    try:
        if period:
            span = timedelta(**{_PERIODS[period[2]]: int(period[1])})
            when = datetime.now(UTC) - span
        else:
            when = datetime.fromisoformat(text)
            when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"'{text}' is not a time.", "write 2026-01-31, '2026-01-31 18:00' (UTC), 90m, 12h, 3d or 2w."
        ) from error
    return when.isoformat(timespec="microseconds")


def _passes(run: RunBrief, chosen: RunFilter) -> bool:
    return (
        (not chosen.states or run.state in chosen.states)
        and (not chosen.method or folded(run.method) == folded(chosen.method))
        and (not chosen.student or folded(run.student) == folded(chosen.student))
        and (not chosen.teacher or folded(chosen.teacher) in map(folded, run.teachers))
    )


_ALMOST = 0.99
"""An epoch that takes longer than the one before it is shown as almost done."""


@dataclass(frozen=True, kw_only=True)
class RunInTraining:
    """A run that somebody trains."""

    run: StoredRun
    latest: EpochResult | None
    """Its last epoch; None before the first."""
    num_epochs: int
    position: float
    """Where it stands in epochs; within an epoch it is estimated from how long the last one took."""
    seconds_left: float | None
    """At the pace of the last epoch; None before there is one."""

    @property
    def waits(self) -> bool:
        """Whether it was claimed with its gang, but not built yet."""
        return self.run.environment is None


@dataclass(frozen=True, kw_only=True)
class Activity:
    """A look at the store."""

    running: tuple[RunInTraining, ...]
    counts: Mapping[RunState, int]
    """How many runs stand where."""


def activity(workspace: Workspace, *, sweep: str | None = None, now: datetime | None = None) -> Activity:
    """Return the runs in training, and how many runs stand where.

    Args:
        workspace: whose store it is.
        sweep: only its members; all runs if not given.
        now: the time; the clock's if not given.

    Raises:
        KdctlError: there is no such sweep.
    """
    store, moment = workspace.store, now or datetime.now(UTC)
    running = store.runs(sweep=sweep, state=RunState.RUNNING)
    latest = {run.key: store.results_at([run.key], run.epochs).get(run.key) for run in running}
    return Activity(
        running=tuple(_in_training(run, latest[run.key], moment) for run in running),
        counts=store.counts(sweep=sweep),
    )


def _in_training(run: StoredRun, latest: EpochResult | None, now: datetime) -> RunInTraining:
    num_epochs = int(run.plan.get("schedule", {}).get("epochs", 0))
    ended = latest.ended_at if latest else None
    begun = max(ended, datetime.fromisoformat(run.updated)) if ended else now  # later, if it was resumed
    since = max(0.0, (now - begun).total_seconds())
    share = min(_ALMOST, since / latest.seconds) if latest and latest.seconds else 0.0
    position = min(run.epochs + share, float(num_epochs))
    left = None if latest is None else (num_epochs - position) * latest.seconds
    return RunInTraining(run=run, latest=latest, num_epochs=num_epochs, position=position, seconds_left=left)
