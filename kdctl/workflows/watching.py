"""What goes on in a store right now, whoever trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from kdctl.assembly.workspace import Workspace
from kdctl.records import EpochResult, RunState, StoredRun

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
    since = (
        max(0.0, (now - datetime.fromisoformat(latest.ended)).total_seconds())
        if latest and latest.ended
        else 0.0
    )
    share = min(_ALMOST, since / latest.seconds) if latest and latest.seconds else 0.0
    position = min(run.epochs + share, float(num_epochs))
    left = None if latest is None else (num_epochs - position) * latest.seconds
    return RunInTraining(run=run, latest=latest, num_epochs=num_epochs, position=position, seconds_left=left)
