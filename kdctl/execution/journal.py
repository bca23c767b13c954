"""Where training writes down what becomes of its runs, and learns whether they are still its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdctl.assembly.bench import Bench
from kdctl.assembly.failure import TRACEBACK, Failure
from kdctl.errors import KdctlError, Mistake
from kdctl.execution.lease import Lease
from kdctl.recipe.plan import RunPlan
from kdctl.records import Artifact, Environment, EpochResult, RunResult
from kdctl.store.atomic import write_atomically
from kdctl.store.owner import Owner


class Journal(Protocol):
    """What a gang tells of its runs."""

    def opened(self, plan: RunPlan, environment: Environment, *, epoch: int) -> None:
        """Note what runs and where; it goes on behind `epoch`, and repeats what came later."""
        ...

    def epoch(self, key: str, result: EpochResult) -> None:
        """Note an epoch's numbers."""
        ...

    def settled(self, key: str, result: RunResult, artifacts: Sequence[Artifact]) -> None:
        """Note how a run ended.

        Raises:
            KdctlError: the run is not ours any more.
        """
        ...

    def interrupted(self, key: str, reason: str) -> None:
        """Give a run back whose state is saved."""
        ...

    def failed(self, key: str, failure: Failure) -> None:
        """Give a run back that cannot go on."""
        ...

    def renew(self, keys: Collection[str]) -> set[str]:
        """Hold on to runs; return those that are still ours."""
        ...


@dataclass(frozen=True, kw_only=True)
class FolderJournal:
    """Writes run folders, the truth about runs; all that a process without a database needs."""

    bench: Bench
    owner: Owner
    lease: Lease

    def opened(self, plan: RunPlan, environment: Environment, *, epoch: int) -> None:
        """Say in the run's folder what runs and where; drop epochs that a resume will repeat."""
        folder = self.bench.folder(plan.key)
        (folder.path / TRACEBACK).unlink(missing_ok=True)
        folder.discard_failure()
        folder.discard_dropped()
        folder.write_plan(plan.planned())
        folder.write_environment(environment)
        folder.truncate_epochs(epoch)

    def epoch(self, key: str, result: EpochResult) -> None:
        """Add the epoch to the run's folder."""
        self.bench.folder(key).append_epoch(result)

    def settled(self, key: str, result: RunResult, artifacts: Sequence[Artifact]) -> None:
        """Write the result into the run's folder, and let go of it.

        Raises:
            KdctlError: another process works there now.
        """
        folder = self.bench.folder(key)
        if not self.renew([key]):
            raise KdctlError(
                f"the result of run {key} was refused: another process works in {folder.path}.",
                "it ends with the same result there; see how it stands with `kdctl list runs`.",
            )
        folder.write_result(result, artifacts)
        folder.let_go(self.owner)

    def interrupted(self, key: str, reason: str) -> None:
        """Let go of the run's folder; the saved state says the rest."""
        self.bench.folder(key).let_go(self.owner)

    def failed(self, key: str, failure: Failure) -> None:
        """Leave what stopped the run in its folder, and let go of it."""
        folder = self.bench.folder(key)
        folder.write_failure(Mistake(problem=failure.problem, hint=failure.hint))
        path = folder.path / TRACEBACK
        path.unlink(missing_ok=True)
        if failure.traceback:
            write_atomically(path, failure.traceback.encode())
        folder.let_go(self.owner)

    def renew(self, keys: Collection[str]) -> set[str]:
        """Give a sign of life in each folder; return the runs where no other process does."""
        return {key for key in keys if self._renew(key)}

    def rejoin(self, key: str) -> bool:
        """Take up a run again that was ours and that nobody has taken since; return whether that was so."""
        folder = self.bench.folder(key)
        if folder.holding() is not None:
            return False
        folder.hold(self.owner, lease_seconds=self.lease.seconds)
        return True

    def _renew(self, key: str) -> bool:
        folder = self.bench.folder(key)
        holding = folder.holding()
        if holding is None or holding.owner != self.owner:
            return False
        folder.hold(self.owner, lease_seconds=self.lease.seconds)
        return True
