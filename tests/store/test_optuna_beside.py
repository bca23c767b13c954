from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from kdctl.records import PlannedRun
from kdctl.store.leases import Owner
from kdctl.store.store import Store


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(logging.WARNING)


def _study(path: Path) -> optuna.Study:
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    return optuna.create_study(study_name="lr", storage=storage, load_if_exists=True)


def _optimise(study: optuna.Study, trials: int) -> None:
    study.optimize(lambda trial: trial.suggest_float("lr", 0.0, 1.0) ** 2, n_trials=trials)


def _close(study: optuna.Study) -> None:
    backend = study._storage  # Optuna offers no other way to close its connections
    getattr(backend, "_backend", backend).engine.dispose()


@pytest.mark.parametrize("optuna_first", [True, False])
def test_a_study_and_the_runs_live_in_one_file(
    tmp_path: Path, plan_run: Callable[..., PlannedRun], optuna_first: bool
) -> None:
    path = tmp_path / "kdctl.db"
    if optuna_first:
        study = _study(path)
        _optimise(study, 1)
        _close(study)

    with Store.open(path) as store:
        run = plan_run(1)
        assert store.add_runs([run]) == 1
        study = _study(path)
        _optimise(study, 3)
        assert store.claim(run.key, Owner.here(), lease_seconds=60)
        _close(study)

    again = _study(path)
    assert len(again.trials) == (4 if optuna_first else 3)
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in again.trials)
    _close(again)
    with Store.open(path) as store:
        assert store.run(run.key).attempts == 1
