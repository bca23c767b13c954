"""What a sweep has spent, and when its budget is used up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdctl.lab.progress import Progress
from kdctl.lab.workspace import Workspace
from kdctl.recipe.limits import Budget
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunResult, RunState, StoredRun
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
    _gang_sizes: dict[str, int] = field(default_factory=dict[str, int])

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
        """Note who trains together: a gang shares its time."""
        self._gang_sizes.update({plan.key: len(plans) for plan in plans})
        self.inner.started(plans)

    def stepped(self, key: str, position: float) -> None:
        """Pass it on."""
        self.inner.stepped(key, position)

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Count the time of an epoch."""
        self.spent_seconds += result.seconds / self._gang_sizes.get(plan.key, 1)
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
    teachers = {member.run_key for member in known.members if member.role == "teacher"}
    members = [member.run_key for member in known.members]
    return sum(
        _seconds_of(workspace, run)
        for run in workspace.store.runs(keys=members)
        if run.key not in teachers or run.updated >= known.created
    )


def _seconds_of(workspace: Workspace, run: StoredRun) -> float:
    """Return a run's share of the time of its gang, to its end or as far as it came."""
    gang = run.environment.gang.split() if run.environment else []
    seconds = (
        run.result.train_seconds
        if run.result
        else sum(epoch.seconds for epoch in workspace.store.epochs(run.key))
    )
    return seconds / max(len(gang), 1)
