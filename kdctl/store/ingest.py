"""Reading run folders into the database, which is only their index and can be rebuilt from them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select, update

from kdctl.errors import Mistake
from kdctl.evaluation_records import Evaluation
from kdctl.records import SETTLED, Artifact, Environment, EpochResult, RunResult, RunState
from kdctl.store.clock import utc_now
from kdctl.store.folder import RunFolder
from kdctl.store.histories import add_epochs, add_history, epochs_of
from kdctl.store.integrity import EndedRun, read_ended_run
from kdctl.store.measurements import (
    add_artifacts,
    add_evaluation,
    evaluations_of,
    set_environment,
)
from kdctl.store.run_table import add, state_of
from kdctl.store.store import Store
from kdctl.store.tables import RunRow
from kdctl.store.transitions import NOBODY, ended, is_held


def ingest(
    store: Store, folder: RunFolder, *, abandoned: bool = False, ended_run: EndedRun | None = None
) -> RunState:
    """Bring one run folder into the database; return where the run then stands.

    Doing so again changes nothing. A settled run stays as it is, and one that a living process
    holds is left to that process: only what was measured is read.

    Args:
        store: the database.
        folder: of the run.
        abandoned: whether the caller has found that nobody holds the run, whatever its lease says.
        ended_run: what `read_ended_run` returned, if it was called before; None: it is called here.

    Returns:
        The run's state in the database, afterwards.

    Raises:
        KdctlError: the folder has no plan, or a file in it is damaged.
    """
    plan, environment = folder.plan(), folder.environment()
    evaluations, failure = folder.evaluations(), folder.failure()
    ended_run = ended_run or read_ended_run(folder)
    result, artifacts = (ended_run.ending.result, ended_run.ending.artifacts) if ended_run else (None, ())
    # What has ended does not change any more, and is kept as a whole.
    history = ended_run if ended_run is not None and ended_run.ending.result.state in SETTLED else None
    epochs = [] if history else folder.epochs()
    started = bool(epochs or (history and history.epochs))
    with store.writing() as connection:
        add(connection, [plan])
        _index_environment(connection, plan.key, environment)
        if history:
            add_history(connection, plan.key, history.lines, history.epochs)
        else:
            _index_epochs(connection, plan.key, epochs)
        _index_evaluations(connection, plan.key, evaluations)
        free = abandoned or not is_held(connection, plan.key)
        if state_of(connection, plan.key) not in SETTLED and free:
            _index_ending(connection, plan.key, result, artifacts, failure, started=started)
        return state_of(connection, plan.key)


def _index_environment(connection: Connection, key: str, environment: Environment | None) -> None:
    known = connection.execute(select(RunRow.environment).where(RunRow.key == key)).scalar_one()
    if environment is not None and environment != known:
        set_environment(connection, key, environment)


def _index_epochs(connection: Connection, key: str, epochs: list[EpochResult]) -> None:
    known = {epoch.epoch: epoch for epoch in epochs_of(connection, key)}
    add_epochs(connection, key, [epoch for epoch in epochs if known.get(epoch.epoch) != epoch])


def _index_evaluations(connection: Connection, key: str, evaluations: list[Evaluation]) -> None:
    latest = {(item.selection, item.split): item for item in evaluations}
    known = evaluations_of(connection, key)
    for evaluation in latest.values():
        if evaluation not in known:
            add_evaluation(connection, evaluation)


def _index_ending(
    connection: Connection,
    key: str,
    result: RunResult | None,
    artifacts: tuple[Artifact, ...],
    failure: Mistake | None,
    *,
    started: bool,
) -> None:
    """Note how a run that nobody works on ended, or that it was begun and left."""
    row = connection.execute(select(RunRow.state, RunRow.result).where(RunRow.key == key)).one()
    values: dict[str, Any] = {}
    if result is not None and result != row.result:
        values = ended(result)
        add_artifacts(connection, key, artifacts)
    elif result is None and failure is not None and row.state is not RunState.FAILED:
        values = {"state": RunState.FAILED, "reason": failure.problem, "updated": utc_now(), **NOBODY}
    elif result is None and started and row.state is RunState.PLANNED:
        reason = "its folder holds epochs but no result"
        values = {"state": RunState.INTERRUPTED, "reason": reason, "updated": utc_now()}
    if values:
        attempts = func.max(RunRow.attempts, 1)
        connection.execute(update(RunRow).where(RunRow.key == key).values(attempts=attempts, **values))
