"""What a sweep has spent, and when its budget is used up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdctl.assembly.progress import Progress
from kdctl.assembly.workspace import Workspace
from kdctl.recipe.limits import Budget
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunResult, RunState, StoredRun
from kdctl.store.clock import spelled
from kdctl.store.store import Store
from kdctl.workflows.sweep_plan import SweepPlan

SECONDS_PER_HOUR = 3600.0


@dataclass(kw_only=True)
class Meter:
    """Passes progress on, and adds up the time that devices spend."""

    inner: Progress
    budget: Budget
    spent_seconds: float
    """Device time of earlier starts, and of this one so far."""
    began: float = field(default_factory=time.monotonic)

    def used_up(self) -> str:
        """Return which part of the budget is used up, in words; empty while there is some left."""
        hours, limit = self.spent_seconds / SECONDS_PER_HOUR, self.budget.device_hours
        if limit is not None and hours >= limit:
            return f"device_hours = {limit:g} are spent"
        lasted, limit = (time.monotonic() - self.began) / SECONDS_PER_HOUR, self.budget.wall_clock_hours
        if limit is not None and lasted >= limit:
            return f"this start has lasted wall_clock_hours = {limit:g}"
        return ""

    def planned(self, plans: Sequence[RunPlan], settled: int, later: int) -> None:
        """Pass it on."""
        self.inner.planned(plans, settled, later)

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Pass it on."""
        self.inner.started(plans)

    def stepped(self, key: str, position: float) -> None:
        """Pass it on."""
        self.inner.stepped(key, position)

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Count the time of an epoch."""
        self.spent_seconds += result.seconds if result.device_seconds is None else result.device_seconds
        self.inner.epoch(plan, result)

    def ended(self, plan: RunPlan, state: RunState, result: RunResult | None, reason: str) -> None:
        """Pass it on."""
        self.inner.ended(plan, state, result, reason)

    def waiting(self, plans: Sequence[RunPlan]) -> None:
        """Pass it on."""
        self.inner.waiting(plans)


def spent_seconds(plan: SweepPlan, workspace: Workspace) -> float:
    """Return the device time that the runs of a sweep have taken so far, if its budget asks for that.

    Teachers that were done before the sweep was first started cost it nothing.
    """
    known = {item.name: item for item in workspace.store.sweeps()}.get(plan.recipe.name)
    if known is None or plan.recipe.limits.budget.device_hours is None:
        return 0.0
    store = workspace.store
    teachers = {member.run_key for member in known.members if member.role == "teacher"}
    members = [member.run_key for member in known.members]
    paid = [
        run
        for run in store.runs(keys=members)
        if run.key not in teachers or _last_trained(run, store) >= known.created
    ]
    seconds = store.seconds_of([run.key for run in paid])
    return sum(
        own + undivided / _gang_size(run)
        for run in paid
        for own, undivided in [seconds.get(run.key, (0.0, 0.0))]
    )


def _last_trained(run: StoredRun, store: Store) -> str:
    """Return when the last epoch of a run ended, or where that is not known, when something of it changed.

    An evaluation of a model changes its run long after the training.
    """
    epochs = store.epochs(run.key)
    ended = epochs[-1].ended_at if epochs else None
    return spelled(ended.isoformat()) if ended else run.updated


def _gang_size(run: StoredRun) -> int:
    """Return how many runs trained together, when this one was last started."""
    return max(len(run.environment.gang.split()), 1) if run.environment else 1
