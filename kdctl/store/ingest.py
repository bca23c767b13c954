"""Reading run folders into the database, which is only their index and can be rebuilt from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, update

from kdctl.errors import Mistake
from kdctl.evaluation_records import Evaluation
from kdctl.records import SETTLED, Artifact, Environment, EpochResult, PlannedRun, RunResult, RunState
from kdctl.store.clock import spelled, utc_now
from kdctl.store.epoch_lines import parse_epochs
from kdctl.store.folder import RunFolder
from kdctl.store.histories import History, add_epochs, add_histories, epochs_of
from kdctl.store.integrity import EndedRun, read_ended_run
from kdctl.store.leases import Owner
from kdctl.store.measurements import add_artifacts, add_evaluation, evaluations_by_run, set_environments
from kdctl.store.run_table import add, listed, states
from kdctl.store.store import Store
from kdctl.store.tables import RunRow
from kdctl.store.transitions import NOBODY, ended, holder_of, is_held, prune


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """What a run folder holds for the database."""

    plan: PlannedRun
    environment: Environment | None
    evaluations: Sequence[Evaluation]
    failure: Mistake | None
    result: RunResult | None
    artifacts: tuple[Artifact, ...]
    history: History | None
    """All epochs of a run that has ended: they do not change any more, and are kept as a whole."""
    epochs: Sequence[EpochResult]
    """Those of a run that has not."""
    began: str = ""
    """When its first epoch did; empty where that is not known."""
    dropped: str = ""
    """Why a sweep dropped the run; empty if none did, or if that is not to be brought into the database."""

    @property
    def has_begun(self) -> bool:
        """Whether there is an epoch."""
        return self.history is not None or bool(self.epochs)


def read_contents(folder: RunFolder, ended_run: EndedRun | None = None) -> FolderContents:
    """Read a run folder; `ended_run` is what was read of it already.

    Raises:
        KdctlError: the folder has no plan, or a file in it is damaged.
    """
    plan, environment = folder.plan(), folder.environment()
    evaluations, failure = folder.evaluations(), folder.failure()
    ended_run = ended_run or read_ended_run(folder)
    has_ended = ended_run is not None and ended_run.ending.result.state in SETTLED
    epochs = () if has_ended else folder.epochs()
    return FolderContents(
        plan=plan,
        environment=environment,
        evaluations=evaluations,
        failure=failure,
        result=ended_run.ending.result if ended_run else None,
        artifacts=ended_run.ending.artifacts if ended_run else (),
        history=History.of(ended_run.lines, ended_run.epochs, ended_run.sha256)
        if ended_run and has_ended and ended_run.epochs
        else None,
        epochs=epochs,
        began=_began(epochs, ended_run.lines if ended_run and has_ended else b""),
    )


def _began(epochs: Sequence[EpochResult], lines: bytes) -> str:
    """Return when the first epoch began, as the store spells times; empty where that is not known.

    Args:
        epochs: of a run that has not ended.
        lines: the epochs of one that has.
    """
    try:
        first = [*epochs[:1], *parse_epochs(lines[: lines.find(b"\n") + 1])]
        return spelled(first[0].started) if first else ""
    except (ValueError, OverflowError):  # somebody else wrote the time
        return ""


def ingest(
    store: Store, folder: RunFolder, *, abandoned: bool = False, holder: Owner | None = None
) -> RunState:
    """Bring one run folder into the database; return where the run then stands. See `ingest_all`.

    Args:
        store: whose database.
        folder: of the run.
        abandoned: the caller has found nobody to hold the run, whatever its lease says.
        holder: whose lease that was; None: there was none. Whoever claims the run meanwhile does hold it.

    Raises:
        KdctlError: the folder has no plan, or a file in it is damaged.
    """
    gone = {folder.key: holder} if abandoned else {}
    return ingest_all(store, [read_contents(folder)], gone=gone)[folder.key]


def ingest_all(
    store: Store, contents: Sequence[FolderContents], *, gone: Mapping[str, Owner | None] | None = None
) -> dict[str, RunState]:
    """Bring what run folders hold into the database, all at once; return where the runs then stand.

    Doing so again changes nothing. A run that the database did not know was created when its first epoch
    began, as far as that is known. A settled run stays as it is, and one that a living process
    holds is left to that process: only what was measured is read. `gone` says of which runs the caller has
    found the holder gone, and who that was.
    """
    gone = gone or {}
    keys = [found.plan.key for found in contents]
    with store.writing() as connection:
        add(
            connection,
            [found.plan for found in contents],
            created={found.plan.key: found.began for found in contents},
        )
        columns = (RunRow.key, RunRow.state, RunRow.environment, RunRow.lease_host)
        rows = {
            row.key: row for row in connection.execute(select(*columns).where(RunRow.key.in_(listed(keys))))
        }
        environments = {found.plan.key: found.environment for found in contents}
        set_environments(
            connection,
            {key: here for key, here in environments.items() if here and here != rows[key].environment},
        )
        add_histories(connection, {found.plan.key: found.history for found in contents if found.history})
        _index_evaluations(connection, contents)
        for found in contents:
            if found.epochs:
                _index_epochs(connection, found.plan.key, found.epochs)
        _index_endings(
            connection,
            [
                found
                for found in contents
                if _is_left(connection, found.plan.key, gone) or _is_open(connection, rows[found.plan.key])
            ],
        )
        for found in contents:
            if found.dropped:
                prune(connection, [found.plan.key], reason=found.dropped)
        return states(connection, keys)


def _is_left(connection: Connection, key: str, gone: Mapping[str, Owner | None]) -> bool:
    """Return whether the process that was found gone is still the one that holds the run."""
    return key in gone and holder_of(connection, key) == gone[key]


def _is_open(connection: Connection, row: Row[*tuple[Any, ...]]) -> bool:
    """Return whether a run has not ended, as far as the database knows, and nobody works on it."""
    return row.state not in SETTLED and (row.lease_host is None or not is_held(connection, row.key))


def _index_epochs(connection: Connection, key: str, epochs: Sequence[EpochResult]) -> None:
    known = {epoch.epoch: epoch for epoch in epochs_of(connection, key)}
    add_epochs(connection, key, [epoch for epoch in epochs if known.get(epoch.epoch) != epoch])


def _index_evaluations(connection: Connection, contents: Sequence[FolderContents]) -> None:
    looked_at = [found for found in contents if found.evaluations]
    known = evaluations_by_run(connection, [found.plan.key for found in looked_at])
    for found in looked_at:
        latest = {(item.selection, item.split): item for item in found.evaluations}
        for evaluation in latest.values():
            if evaluation not in known.get(found.plan.key, ()):
                add_evaluation(connection, evaluation)


def _index_endings(connection: Connection, contents: Sequence[FolderContents]) -> None:
    """Note how runs that nobody works on ended, or that they were begun and left."""
    columns = select(RunRow.key, RunRow.state, RunRow.result)
    keys = listed(found.plan.key for found in contents)
    rows = {row.key: row for row in connection.execute(columns.where(RunRow.key.in_(keys)))}
    endings = {key: values for found in contents if (values := _ending(found, rows[key := found.plan.key]))}
    for names in {frozenset(values) for values in endings.values()}:
        statement = update(RunRow).where(RunRow.key == bindparam("run"))
        alike = [{"run": key, **values} for key, values in endings.items() if frozenset(values) == names]
        connection.execute(statement.values(attempts=func.max(RunRow.attempts, 1)), alike)
    add_artifacts(
        connection,
        {
            found.plan.key: found.artifacts
            for found in contents
            if "result" in endings.get(found.plan.key, ())
        },
    )


def _ending(found: FolderContents, row: Row[*tuple[Any, ...]]) -> Mapping[str, Any]:
    """Return the columns that tell how a run ended; none if the database knows it."""
    if row.state in SETTLED:
        return {}
    if found.result is not None:
        return ended(found.result) if found.result != row.result else {}
    if found.failure is not None and row.state is not RunState.FAILED:
        return {"state": RunState.FAILED, "reason": found.failure.problem, "updated": utc_now(), **NOBODY}
    if found.has_begun and row.state is RunState.PLANNED:
        reason = "its folder holds epochs but no result"
        return {"state": RunState.INTERRUPTED, "reason": reason, "updated": utc_now()}
    return {}
