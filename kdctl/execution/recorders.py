"""What records runs: their folders, which are the truth, and the database, which is their index."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kdctl.assembly.failure import TRACEBACK, Failure
from kdctl.assembly.progress import Progress
from kdctl.assembly.run_context import RunContext
from kdctl.engine.resume import discard_state
from kdctl.errors import KdctlError
from kdctl.recipe.plan import RunPlan
from kdctl.records import Artifact, Environment, EpochResult, RunResult, RunState
from kdctl.store.atomic import write_atomically
from kdctl.store.leases import LeaseConfig, Owner

if TYPE_CHECKING:  # a worker records into folders only, and starts quicker without SQLAlchemy
    from kdctl.assembly.workspace import Workspace
    from kdctl.store.store import Store

ABORTED = "aborted; the state that was saved before is good"
"""Why a run is given back by those who were not to wait for the running step."""

NOT_BEGUN = "stopped before its turn came; what was saved before is good"
"""Why a run is given back that waited for others of its gang, which memory did not hold at once."""

NOT_READY = "stopped while its images were made ready; what was stored of them before is kept"
"""Why a run is given back that had not begun with a step."""


class RunRecorder(Protocol):
    """Records what happens to the runs of a gang."""

    def opened(self, plan: RunPlan, environment: Environment, *, epoch: int) -> None:
        """Record what runs and where; it goes on after `epoch`, and repeats what came later."""
        ...

    def epoch(self, key: str, result: EpochResult) -> None:
        """Record an epoch's numbers."""
        ...

    def settled(self, key: str, result: RunResult, artifacts: Sequence[Artifact]) -> None:
        """Record how a run ended.

        Raises:
            KdctlError: the run is not ours any more.
        """
        ...

    def interrupted(self, key: str, reason: str) -> None:
        """Release a run whose state is saved."""
        ...

    def failed(self, key: str, failure: Failure) -> None:
        """Release a run that cannot go on."""
        ...

    def renew(self, keys: Collection[str]) -> set[str]:
        """Renew the leases of runs; return the keys of those that are still ours."""
        ...


@dataclass(frozen=True, kw_only=True)
class FolderRecorder:
    """Writes run folders, the truth about runs; all that a process without a database needs."""

    context: RunContext
    owner: Owner
    lease: LeaseConfig

    def opened(self, plan: RunPlan, environment: Environment, *, epoch: int) -> None:
        """Say in the run's folder what runs and where; drop epochs that a resume will repeat."""
        folder = self.context.folder(plan.key)
        (folder.path / TRACEBACK).unlink(missing_ok=True)
        folder.discard_failure()
        folder.discard_dropped()
        folder.write_plan(plan.planned())
        folder.write_environment(environment)
        folder.truncate_epochs(epoch)

    def epoch(self, key: str, result: EpochResult) -> None:
        """Add the epoch to the run's folder."""
        self.context.folder(key).append_epoch(result)

    def settled(self, key: str, result: RunResult, artifacts: Sequence[Artifact]) -> None:
        """Write the result into the run's folder, and let go of it.

        Raises:
            KdctlError: another process works there now.
        """
        folder = self.context.folder(key)
        if not self.renew([key]):
            raise KdctlError(
                f"the result of run {key} was refused: another process works in {folder.path}.",
                "it ends with the same result there; see how it stands with `kdctl list runs`.",
            )
        folder.write_result(result, artifacts)
        folder.let_go(self.owner)

    def interrupted(self, key: str, reason: str) -> None:
        """Let go of the run's folder; the saved state says the rest."""
        self.context.folder(key).let_go(self.owner)

    def failed(self, key: str, failure: Failure) -> None:
        """Leave what stopped the run in its folder, and let go of it."""
        folder = self.context.folder(key)
        folder.write_failure(failure.mistake())
        path = folder.path / TRACEBACK
        path.unlink(missing_ok=True)
        if failure.traceback:
            write_atomically(path, failure.traceback.encode())
        folder.let_go(self.owner)

    def renew(self, keys: Collection[str]) -> set[str]:
        """Renew the leases in the folders; return the runs that no other process has taken since."""
        return {key for key in keys if self._renew(key)}

    def rejoin(self, key: str) -> bool:
        """Take a run again that this owner has released; return False if another process has it by now."""
        folder = self.context.folder(key)
        if folder.lease() is not None:
            return False
        folder.hold(self.owner, lease_seconds=self.lease.seconds)
        return True

    def _renew(self, key: str) -> bool:
        folder = self.context.folder(key)
        lease = folder.lease()
        if lease is None or lease.owner != self.owner:
            return False
        folder.hold(self.owner, lease_seconds=self.lease.seconds)
        return True


@dataclass(frozen=True, kw_only=True)
class StoreRecorder:
    """Writes folders and database."""

    folders: FolderRecorder
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
        """Renew leases in folders and database; return the runs that no other process has taken since."""
        kept = self.folders.renew(keys)
        return {
            key
            for key in kept
            if self.store.renew(key, self.folders.owner, lease_seconds=self.folders.lease.seconds)
        }


@dataclass(frozen=True, kw_only=True)
class IndexRecorder:
    """Reads the folders that workers write, and keeps the database their index."""

    workspace: Workspace
    progress: Progress
    lease: LeaseConfig
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
