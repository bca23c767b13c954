"""The store: what kdctl remembers of all runs, one short transaction for each question or change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine

from kdctl.evaluation_records import Evaluation
from kdctl.records import (
    SETTLED,
    Artifact,
    Environment,
    EpochResult,
    PlannedRun,
    RunResult,
    RunState,
    StoredRun,
    StoredSweep,
)
from kdctl.store import briefs, histories, measurements, run_table, sweeps, transitions
from kdctl.store.briefs import RunBrief
from kdctl.store.database import connect, database_path, reading, require_database, writing
from kdctl.store.leases import Lease, Owner


class Store:
    """The database of a project.

    Safe to use from several threads and processes; after a fork the child opens its own. `run` takes the
    beginning of a key, all else a whole one. Changes to unknown runs raise `KdctlError`, as a locked, damaged
    or full database does.
    """

    def __init__(self, engine: Engine, called: Path | None = None) -> None:
        """Work on an engine that `connect` made; `called` is as `open` takes it."""
        self._engine = engine
        self._called = called or self.path

    @classmethod
    def open(
        cls, path: Path, *, create: bool = True, read_only: bool = False, called: Path | None = None
    ) -> Self:
        """Open the database at `path`; `read_only` does not change it, so that an archive will do.

        Where it stands in for another one, messages name that: `called`.

        Raises:
            KdctlError: it is missing and `create` is False, cannot be written, or is not ours.
        """
        if not create:
            require_database(path)
        return cls(connect(path, read_only=read_only), called)

    @property
    def path(self) -> Path:
        """Where the database is."""
        return database_path(self._engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def writing(self) -> AbstractContextManager[Connection]:
        """Return one transaction for several changes, for the other files of this room."""
        return writing(self._engine)

    def reading(self) -> AbstractContextManager[Connection]:
        """Return one consistent state for several questions, for the other files of this room."""
        return reading(self._engine)

    # Runs

    def add_runs(self, planned: Sequence[PlannedRun]) -> int:
        """Add the runs that are not known yet; return how many these were."""
        with writing(self._engine) as connection:
            return run_table.add(connection, planned)

    def run(self, prefix: str) -> StoredRun:
        """Return the one run whose key begins with `prefix` (4 digits or more).

        Raises:
            KdctlError: no run, or more than one, has such a key.
        """
        with reading(self._engine) as connection:
            return run_table.find(connection, prefix, self._called)

    def runs(
        self, keys: Iterable[str] | None = None, *, sweep: str | None = None, state: RunState | None = None
    ) -> list[StoredRun]:
        """Return the runs that meet all conditions, in the order in which they were planned.

        Raises:
            KdctlError: there is no such sweep.
        """
        with reading(self._engine) as connection:
            return run_table.select_runs(connection, keys=keys, sweep=sweep, state=state)

    def briefs(
        self, keys: Iterable[str] | None = None, *, sweep: str | None = None, since: str = ""
    ) -> list[RunBrief]:
        """Return runs in one line each, in the order in which they were planned: quick for thousands.

        Raises:
            KdctlError: there is no such sweep.
        """
        with reading(self._engine) as connection:
            return briefs.briefs(connection, keys=keys, sweep=sweep, since=since)

    def counts(self, *, sweep: str | None = None) -> dict[RunState, int]:
        """Return how many runs stand where; states without a run are left out.

        Raises:
            KdctlError: there is no such sweep.
        """
        with reading(self._engine) as connection:
            return briefs.counts(connection, sweep=sweep)

    def students_of(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Return the runs that each of `keys` teaches, by teacher; those that teach nobody are left out."""
        with reading(self._engine) as connection:
            return briefs.students_of(connection, keys)

    def states(self, keys: Iterable[str]) -> dict[str, RunState]:
        """Return where runs stand, by key; unknown ones are left out."""
        with reading(self._engine) as connection:
            return run_table.states(connection, keys)

    def past(self, keys: Iterable[str], epoch: int) -> set[str]:
        """Return the runs that have completed an epoch, and are held no longer or were trained beyond it."""
        with reading(self._engine) as connection:
            return run_table.past(connection, keys, epoch)

    # Leases

    def claim(
        self,
        key: str,
        owner: Owner,
        *,
        lease_seconds: float,
        retry_failed: bool = False,
        silent: Owner | None = None,
    ) -> bool:
        """Take a run to work on it; return whether it is now the owner's.

        A run can be had when it is planned or interrupted, failed and to be retried, or held by a
        process that has ended or let its lease run out, or by `silent`, which the caller has found
        to be gone.
        """
        with writing(self._engine) as connection:
            return transitions.claim(
                connection,
                key,
                owner=owner,
                lease_seconds=lease_seconds,
                retry_failed=retry_failed,
                silent=silent,
            )

    def lease(self, key: str) -> Lease | None:
        """Return who holds a run, and until when; None when nobody does."""
        with reading(self._engine) as connection:
            return transitions.lease_of(connection, key)

    def renew(self, key: str, owner: Owner, *, lease_seconds: float) -> bool:
        """Hold a run for `lease_seconds` from now; return whether it is still the owner's."""
        with writing(self._engine) as connection:
            return transitions.renew(connection, key, owner=owner, lease_seconds=lease_seconds)

    def settle(
        self, key: str, owner: Owner, *, result: RunResult, artifacts: Sequence[Artifact] = ()
    ) -> None:
        """Write down how a run ended and what it left behind.

        Raises:
            KdctlError: the owner does not hold the run any more; nothing is changed.
            ValueError: the result's state is not an end.
        """
        with writing(self._engine) as connection:
            transitions.settle(connection, key, owner=owner, result=result)
            measurements.add_artifacts(connection, {key: artifacts})
            if result.state in SETTLED:
                histories.pack_epochs(connection, key)

    def release(self, key: str, owner: Owner, *, state: RunState, reason: str) -> bool:
        """Give a run back as planned, interrupted or failed; return whether it was the owner's.

        Raises:
            ValueError: `state` is none of these.
        """
        with writing(self._engine) as connection:
            return transitions.release(connection, key, owner=owner, state=state, reason=reason)

    def prune(self, keys: Sequence[str], *, reason: str) -> int:
        """Settle runs that nobody holds as pruned, without a result; return how many it were."""
        with writing(self._engine) as connection:
            return transitions.prune(connection, keys, reason=reason)

    def revive(self, keys: Sequence[str]) -> int:
        """Let pruned runs be started after all; return how many it were."""
        with writing(self._engine) as connection:
            return transitions.revive(connection, keys)

    # Measurements

    def record_environment(self, key: str, environment: Environment) -> None:
        """Keep where and with what a run is computed."""
        with writing(self._engine) as connection:
            measurements.set_environment(connection, key, environment)

    def record_epoch(self, key: str, epoch: EpochResult) -> None:
        """Keep an epoch of a run; a resumed run may repeat one."""
        with writing(self._engine) as connection:
            histories.add_epochs(connection, key, [epoch])

    def epochs(self, key: str) -> list[EpochResult]:
        """Return the epochs of a run in their order."""
        with reading(self._engine) as connection:
            return histories.epochs_of(connection, key)

    def results_at(self, keys: Iterable[str], epoch: int) -> dict[str, EpochResult]:
        """Return what one epoch of several runs gave, by run key; runs without it are left out."""
        with reading(self._engine) as connection:
            return histories.results_at(connection, keys, epoch)

    def seconds_of(self, keys: Iterable[str]) -> dict[str, tuple[float, float]]:
        """Return the time of each run's epochs: its own share, and what earlier versions wrote undivided."""
        with reading(self._engine) as connection:
            return histories.seconds_of(connection, keys)

    def history_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the epochs of all runs that have ended, by run key."""
        with reading(self._engine) as connection:
            return histories.history_hashes(connection)

    def history(self, key: str) -> bytes:
        """Return the epochs of a run that has ended as lines; empty for another one."""
        with reading(self._engine) as connection:
            return histories.lines_of(connection, key)

    def artifacts(self, key: str) -> list[Artifact]:
        """Return the files that a run left behind, by name."""
        with reading(self._engine) as connection:
            return measurements.artifacts_of(connection, key)

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """Keep a later look at a run's model; the latest counts for each selection rule and split."""
        with writing(self._engine) as connection:
            measurements.add_evaluation(connection, evaluation)

    def evaluations(self, key: str) -> list[Evaluation]:
        """Return the later looks at a run's model, by selection rule and split."""
        with reading(self._engine) as connection:
            return measurements.evaluations_of(connection, key)

    def evaluations_by_run(self, keys: Iterable[str]) -> dict[str, list[Evaluation]]:
        """Return the later looks at the models of several runs, by run key; those without are left out."""
        with reading(self._engine) as connection:
            return measurements.evaluations_by_run(connection, keys)

    # Sweeps

    def sweep(self, name: str) -> StoredSweep:
        """Return the sweep called `name`.

        Raises:
            KdctlError: there is none; the hint names the nearest.
        """
        with reading(self._engine) as connection:
            return sweeps.find(connection, name)

    def sweeps_of(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Return the names of the sweeps that runs belong to, by run key."""
        with reading(self._engine) as connection:
            return sweeps.of_runs(connection, keys)

    def sweeps_with_results(self) -> list[str]:
        """Return the names of the sweeps in which a student has finished, the newest first."""
        with reading(self._engine) as connection:
            return sweeps.with_results(connection)

    def sweeps(self) -> list[StoredSweep]:
        """Return all sweeps, the newest first."""
        with reading(self._engine) as connection:
            return sweeps.all_sweeps(connection)
