"""The journal of a process that may write the database: folders first, then their index."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kdctl.assembly.failure import Failure
from kdctl.execution.journal import FolderJournal
from kdctl.recipe.plan import RunPlan
from kdctl.records import Artifact, Environment, EpochResult, RunResult, RunState
from kdctl.store.store import Store


@dataclass(frozen=True, kw_only=True)
class StoreJournal:
    """Writes folders and database."""

    folders: FolderJournal
    store: Store

    def opened(self, plan: RunPlan, environment: Environment, *, epoch: int) -> None:
        """Keep where the run is computed."""
        self.folders.opened(plan, environment, epoch=epoch)
        self.store.record_environment(plan.key, environment)

    def epoch(self, key: str, result: EpochResult) -> None:
        """Keep the epoch."""
        self.folders.epoch(key, result)
        self.store.record_epoch(key, result)

    def settled(self, key: str, result: RunResult, artifacts: Sequence[Artifact]) -> None:
        """Settle the run.

        Raises:
            KdctlError: another process holds it.
        """
        self.folders.settled(key, result, artifacts)
        self.store.settle(key, self.folders.owner, result=result, artifacts=artifacts)

    def interrupted(self, key: str, reason: str) -> None:
        """Release the run as interrupted."""
        self.folders.interrupted(key, reason)
        self.store.release(key, self.folders.owner, state=RunState.INTERRUPTED, reason=reason)

    def failed(self, key: str, failure: Failure) -> None:
        """Release the run as failed."""
        self.folders.failed(key, failure)
        self.store.release(key, self.folders.owner, state=RunState.FAILED, reason=failure.problem)

    def renew(self, keys: Collection[str]) -> set[str]:
        """Renew the leases; return the runs that no other process took over meanwhile."""
        kept = self.folders.renew(keys)
        return {
            key
            for key in kept
            if self.store.renew(key, self.folders.owner, lease_seconds=self.folders.lease.seconds)
        }
