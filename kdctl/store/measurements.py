"""What was measured in a run beside its epochs: its environment, files and later evaluations.

Writing the same thing twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects.sqlite import insert

from kdctl.evaluation_records import Evaluation
from kdctl.records import Artifact, Environment
from kdctl.store.clock import utc_now
from kdctl.store.run_table import listed, unknown_run
from kdctl.store.tables import ArtifactRow, EvaluationRow, RunRow


def set_environment(connection: Connection, key: str, environment: Environment) -> None:
    """Keep where and with what a run is computed.

    Raises:
        KdctlError: the run is not known.
    """
    _touch(connection, key, environment=environment)


def set_environments(connection: Connection, environments: Mapping[str, Environment]) -> None:
    """Keep where and with what known runs were computed, by run key."""
    statement = update(RunRow).where(RunRow.key == bindparam("run")).values(updated=utc_now())
    rows = [{"run": key, "environment": environment} for key, environment in environments.items()]
    if rows:
        connection.execute(statement, rows)


def add_artifacts(connection: Connection, artifacts: Mapping[str, Sequence[Artifact]]) -> None:
    """Keep which files runs left behind, by run key; a name seen before now means the new file."""
    statement = insert(ArtifactRow)
    statement = statement.on_conflict_do_update(
        index_elements=[ArtifactRow.run_key, ArtifactRow.name],
        set_={"sha256": statement.excluded.sha256, "num_bytes": statement.excluded.num_bytes},
    )
    rows = [
        {"run_key": key, "name": item.name, "sha256": item.sha256, "num_bytes": item.num_bytes}
        for key, files in artifacts.items()
        for item in files
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
