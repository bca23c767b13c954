"""What was measured in a run: its environment, epochs, files and later evaluations.

Writing the same thing twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, case, func, select, update
from sqlalchemy.dialects.sqlite import insert

from kdctl.evaluation_records import Evaluation
from kdctl.records import Artifact, Environment, EpochResult
from kdctl.store.clock import utc_now
from kdctl.store.run_table import listed, unknown_run
from kdctl.store.tables import ArtifactRow, EpochRow, EvaluationRow, RunRow


def set_environment(connection: Connection, key: str, environment: Environment) -> None:
    """Keep where and with what a run is computed.

    Raises:
        KdctlError: the run is not known.
    """
    _touch(connection, key, environment=environment)


def add_epochs(connection: Connection, key: str, epochs: Sequence[EpochResult]) -> None:
    """Keep epochs of a run; a repeated one replaces what it was.

    Raises:
        KdctlError: the run is not known.
    """
    if not epochs:
        return
    latest = max(epoch.epoch for epoch in epochs)
    _touch(connection, key, epochs=func.max(RunRow.epochs, latest))
    statement = insert(EpochRow)
    statement = statement.on_conflict_do_update(
        index_elements=[EpochRow.run_key, EpochRow.epoch],
        set_={"result": statement.excluded.result},
        where=EpochRow.result != statement.excluded.result,
    )
    rows = [{"run_key": key, "epoch": epoch.epoch, "result": epoch} for epoch in epochs]
    connection.execute(statement, rows)


def epochs_of(connection: Connection, key: str) -> list[EpochResult]:
    """Return the epochs of a run in their order."""
    statement = select(EpochRow.result).where(EpochRow.run_key == key).order_by(EpochRow.epoch)
    return list(connection.execute(statement).scalars())


def results_at(connection: Connection, keys: Iterable[str], epoch: int) -> dict[str, EpochResult]:
    """Return what one epoch of several runs gave, by run key; runs without it are left out."""
    wanted = (EpochRow.run_key.in_(listed(keys)), EpochRow.epoch == epoch)
    rows = connection.execute(select(EpochRow.run_key, EpochRow.result).where(*wanted))
    return {row.run_key: row.result for row in rows}


def seconds_of(connection: Connection, keys: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the time of each run's epochs: its own share, and what earlier versions wrote undivided."""
    own = func.json_extract(EpochRow.result, "$.device_seconds")
    undivided = case((own.is_(None), func.json_extract(EpochRow.result, "$.seconds")), else_=0.0)
    statement = select(EpochRow.run_key, func.total(own), func.total(undivided)).group_by(EpochRow.run_key)
    rows = connection.execute(statement.where(EpochRow.run_key.in_(listed(keys))))
    return {key: (shared, alone) for key, shared, alone in rows}


def add_artifacts(connection: Connection, key: str, artifacts: Sequence[Artifact]) -> None:
    """Keep which files a run left behind; a name seen before now means the new file."""
    statement = insert(ArtifactRow)
    statement = statement.on_conflict_do_update(
        index_elements=[ArtifactRow.run_key, ArtifactRow.name],
        set_={"sha256": statement.excluded.sha256, "num_bytes": statement.excluded.num_bytes},
    )
    rows = [
        {"run_key": key, "name": item.name, "sha256": item.sha256, "num_bytes": item.num_bytes}
        for item in artifacts
    ]
    if rows:
        connection.execute(statement, rows)


def artifacts_of(connection: Connection, key: str) -> list[Artifact]:
    """Return the files that a run left behind, by name."""
    statement = select(ArtifactRow).where(ArtifactRow.run_key == key).order_by(ArtifactRow.name)
    return [
        Artifact(name=row.name, sha256=row.sha256, num_bytes=row.num_bytes)
        for row in connection.execute(statement)
    ]


def add_evaluation(connection: Connection, evaluation: Evaluation) -> None:
    """Keep a later look at a run's model; it replaces an earlier one with the same rule and split.

    Raises:
        KdctlError: the run is not known.
    """
    _touch(connection, evaluation.run_key)
    statement = insert(EvaluationRow).values(
        run_key=evaluation.run_key,
        selection=evaluation.selection,
        split=evaluation.split,
        evaluation=evaluation,
    )
    statement = statement.on_conflict_do_update(
        index_elements=[EvaluationRow.run_key, EvaluationRow.selection, EvaluationRow.split],
        set_={"evaluation": statement.excluded.evaluation},
    )
    connection.execute(statement)


def evaluations_of(connection: Connection, key: str) -> list[Evaluation]:
    """Return the later looks at a run's model, by selection rule and split."""
    statement = (
        select(EvaluationRow.evaluation)
        .where(EvaluationRow.run_key == key)
        .order_by(EvaluationRow.selection, EvaluationRow.split)
    )
    return list(connection.execute(statement).scalars())


def evaluations_by_run(connection: Connection, keys: Iterable[str]) -> dict[str, list[Evaluation]]:
    """Return the later looks at the models of several runs, by run key; those without are left out."""
    found: dict[str, list[Evaluation]] = {}
    statement = select(EvaluationRow.run_key, EvaluationRow.evaluation)
    for row in connection.execute(statement.where(EvaluationRow.run_key.in_(listed(keys)))):
        found.setdefault(row.run_key, []).append(row.evaluation)
    return found


def _touch(connection: Connection, key: str, **values: object) -> None:
    """Change columns of a run, and the time of its last change."""
    statement = update(RunRow).where(RunRow.key == key).values(updated=utc_now(), **values)
    if connection.execute(statement).rowcount == 0:
        raise unknown_run(key)
