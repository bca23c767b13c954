"""What the scheduler writes into the database about runs that others train."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from kdctl.assembly.failure import Failure
from kdctl.assembly.progress import Progress
from kdctl.assembly.workspace import Workspace
from kdctl.engine.resume import discard_state
from kdctl.errors import KdctlError
from kdctl.execution.lease import Lease
from kdctl.recipe.plan import RunPlan
from kdctl.records import EpochResult, RunState
from kdctl.store.owner import Owner


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Reads the folders that workers write, and keeps the database their index."""

    workspace: Workspace
    progress: Progress
    lease: Lease
    failures: dict[str, Failure] = field(default_factory=dict[str, Failure])
    """What went wrong in runs that failed, by run key."""

    def opened(self, plan: RunPlan) -> None:
        """Keep where a run is computed, as its folder says."""
        environment = self.workspace.folder(plan.key).environment()
        if environment is not None:
            self.workspace.store.record_environment(plan.key, environment)

    def epoch(self, plan: RunPlan, result: EpochResult) -> None:
        """Keep an epoch."""
        self.workspace.store.record_epoch(plan.key, result)
        self.progress.epoch(plan, result)

    def renew(self, keys: Collection[str], owner: Owner) -> None:
        """Renew the leases of a worker that gave a sign of life."""
        for key in keys:
            self.workspace.store.renew(key, owner, lease_seconds=self.lease.seconds)

    def close(self, plan: RunPlan, owner: Owner, reason: str) -> RunState:
        """Write down where a run stands that `owner` works on no longer, as its folder says.

        Args:
            plan: the run.
            owner: who held it.
            reason: why it stopped, if it did not end.

        Returns:
            Its new state; RUNNING if somebody else holds it.
        """
        store, folder = self.workspace.store, self.workspace.folder(plan.key)
        folder.let_go(owner)
        result, failure = folder.result(), folder.failure()
        if result is not None:
            try:
                store.settle(plan.key, owner, result=result, artifacts=folder.artifacts())
            except KdctlError:  # somebody took it over meanwhile, and settles it
                return RunState.RUNNING
            discard_state(folder.path)  # its worker may have died before that
            self.progress.ended(plan, result.state, result, result.reason)
            return result.state
        if failure is not None:
            return self.fail(plan, owner, Failure(problem=failure.problem, hint=failure.hint))
        if not store.release(plan.key, owner, state=RunState.INTERRUPTED, reason=reason):
            return RunState.RUNNING
        self.progress.ended(plan, RunState.INTERRUPTED, None, reason)
        return RunState.INTERRUPTED

    def fail(self, plan: RunPlan, owner: Owner, failure: Failure) -> RunState:
        """Write down that a run of `owner` failed; return its state."""
        if not self.workspace.store.release(plan.key, owner, state=RunState.FAILED, reason=failure.problem):
            return RunState.RUNNING
        self.failures[plan.key] = failure
        self.progress.ended(plan, RunState.FAILED, None, failure.problem)
        return RunState.FAILED
