"""Where training writes down what becomes of its runs, and learns whether they are still its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from kdctl.recipe.plan import RunPlan
from kdctl.records import Artifact, Environment, EpochResult, RunResult
from kdctl.store.atomic import write_atomically
from kdctl.workflows.bench import Bench
from kdctl.workflows.failure import TRACEBACK, Failure


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
    """Writes run folders, the truth about runs."""

    bench: Bench

    def opened(self, plan: RunPlan, environment: Environment, *, epoch: int) -> None:
        """Say in the run's folder what runs and where; drop epochs that a resume will repeat."""
        folder = self.bench.folder(plan.key)
        (folder.path / TRACEBACK).unlink(missing_ok=True)
        folder.write_plan(plan.planned())
        folder.write_environment(environment)
        folder.truncate_epochs(epoch)

    def epoch(self, key: str, result: EpochResult) -> None:
        """Add the epoch to the run's folder."""
        self.bench.folder(key).append_epoch(result)

    def settled(self, key: str, result: RunResult, artifacts: Sequence[Artifact]) -> None:
        """Write the result into the run's folder."""
        self.bench.folder(key).write_result(result, artifacts)

    def interrupted(self, key: str, reason: str) -> None:
        """Write nothing: the saved state says enough."""

    def failed(self, key: str, failure: Failure) -> None:
        """Leave the traceback in the run's folder."""
        path = self.bench.folder(key).path / TRACEBACK
        path.unlink(missing_ok=True)
        if failure.traceback:
            write_atomically(path, failure.traceback.encode())

    def renew(self, keys: Collection[str]) -> set[str]:
        """Return all of them: a folder by itself is nobody's."""
        return set(keys)
