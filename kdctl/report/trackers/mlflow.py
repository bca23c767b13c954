"""MLflow: an SQLite store of its own."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from kdctl.errors import KdctlError, words_of
from kdctl.files import resolved
from kdctl.records import RunState
from kdctl.report.tracker import Scalar, TrackedRun, require_package, staged, trackers

DATABASE = "mlflow.db"
KEY_TAG = "kdctl.run"
_MOST_AT_ONCE = 1000
_MOST_PARAMETERS = 100
_NOT_ALLOWED = re.compile(r"[^/\w.\- :]")
_NO_PARTS = ("", ".", "..")
"""Parts of a path that would make it another one."""
_STATUS = {
    RunState.FINISHED: "FINISHED",
    RunState.DIVERGED: "FAILED",
    RunState.FAILED: "FAILED",
    RunState.PRUNED: "KILLED",
}


@trackers.register("mlflow", label="MLflow")
def export_to_mlflow(runs: Sequence[TrackedRun], folder: Path) -> str:
    """Write `folder/mlflow.db` for `mlflow ui --backend-store-uri sqlite:///folder/mlflow.db`.

    An experiment is a sweep. A run that an earlier export wrote, also as one of another sweep, is replaced.
    """
    require_package("mlflow", "mlflow")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent anywhere
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - optional, slow to import

    shown = shlex.join(["mlflow", "ui", "--backend-store-uri", _address(folder / DATABASE)])
    for chatty in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    if not runs:
        return shown
    with staged(folder) as stage:
        if (folder / DATABASE).exists():
            shutil.copyfile(folder / DATABASE, stage / DATABASE)
        try:
            _write_all(runs, stage / DATABASE, resolved(folder / "artifacts").as_uri())
        except (MlflowException, SQLAlchemyError) as error:
            raise KdctlError(
                f"MLflow cannot write {folder / DATABASE}: {words_of(error).splitlines()[0]}.",
                "free disk space, or name another folder.",
            ) from error
    return shown


def _write_all(runs: Sequence[TrackedRun], database: Path, artifacts: str) -> None:
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - optional, slow to import

    client: Any = MlflowClient(tracking_uri=_address(database.resolve()))
    known = [item.experiment_id for item in client.search_experiments()]
    for run in runs:
        found = client.get_experiment_by_name(run.group)
        experiment = found.experiment_id if found else client.create_experiment(run.group, artifacts)
        for earlier in client.search_runs(known, f"tags.`{KEY_TAG}` = '{run.run.key}'"):
            client.delete_run(earlier.info.run_id)
        _write(client, experiment, run)


def _address(database: Path) -> str:
    return URL.create("sqlite", database=str(database)).render_as_string()


def _write(client: Any, experiment: str, run: TrackedRun) -> None:
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

    tags = {
        KEY_TAG: run.run.key,
        "kdctl.configuration": run.run.configuration,
        "kdctl.state": run.run.state.value,
    }
    made = client.create_run(experiment, start_time=_milliseconds(run.started), run_name=run.name, tags=tags)
    identity = made.info.run_id
    last = run.ends[-1] if run.epochs else run.started
    results = [
        Scalar(name=name, epoch=len(run.epochs), seconds=last, value=value)
        for name, value in run.results().items()
    ]
    told = [*run.scalars(), *results]
    names = _allowed_names(item.name for item in told)
    metrics = [Metric(names[item.name], item.value, _milliseconds(item.seconds), item.epoch) for item in told]
    keys = _allowed_names(run.settings)
    parameters = [Param(keys[name], str(value)) for name, value in run.settings.items()]
    for part in _parts(metrics, _MOST_AT_ONCE):
        client.log_batch(identity, metrics=part)
    for part in _parts(parameters, _MOST_PARAMETERS):
        client.log_batch(identity, params=part)
    if run.run.reason:
        client.log_batch(identity, tags=[RunTag("kdctl.reason", run.run.reason)])
    if run.ended is not None:
        client.set_terminated(identity, _STATUS[run.run.state], _milliseconds(run.ended))


def _allowed_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name that MLflow takes for each of `names`: a loss of a plug-in may be called 'KL(p||q)'."""
    plain = {name: _plain(name) for name in names}
    found: dict[str, str] = {}
    for name in sorted(plain, key=lambda name: plain[name] != name):  # what is allowed keeps its name
        tried = (f"{plain[name]}{f'_{number}' * (number > 1)}" for number in itertools.count(1))
        found[name] = next(candidate for candidate in tried if candidate not in found.values())
    return found


def _plain(name: str) -> str:
    parts = _NOT_ALLOWED.sub("_", name).split("/")
    return "/".join("_" if part in _NO_PARTS else part for part in parts)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
