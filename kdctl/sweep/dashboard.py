"""What optuna-dashboard is given besides values: what they are, what they rest on, curves and times."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import stdev
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import DateTime, Integer, String, column, table, update
from sqlalchemy.exc import SQLAlchemyError

METRIC_WORDS = {
    "test": "top-1 test accuracy (%), mean over seeds",
    "val": "top-1 validation accuracy (%), mean over seeds",
}
"""What a study's value is, by the split it is measured on; a dashboard writes it on its axis."""

VALUE_DECIMALS = 4
"""Of a value: less than one image in ten thousand, over any number of seeds that anyone has."""

MOST_STEPS = 16
"""Intermediate values that a trial is given: each is a transaction of Optuna's."""


_NUM_VALUED = "finished"
"""User attribute of a trial: how many of its seeds have a value."""

_TRIALS = table(
    "trials",
    column("trial_id", Integer),
    column("study_id", Integer),
    column("number", Integer),
    column("state", String),
    column("datetime_start", DateTime),
    column("datetime_complete", DateTime),
)
"""What of Optuna's own table is written here."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a value rests on."""

    seeds: tuple[int, ...]
    run_keys: tuple[str, ...]
    """Of all seeds, in their order."""
    values: tuple[float, ...]
    """Of the seeds that finished."""
    curve: Mapping[int, float]
    """The mean over these seeds by epoch."""
    started: str | None
    """When the first run began, in UTC as ISO 8601; None where that is not known."""
    ended: str | None
    """When the last run ended."""


def name_values(study: optuna.Study, split: str) -> None:
    """Say that the values of a study are accuracies on `split`, if it is not said yet."""
    words = METRIC_WORDS[split]
    if study.metric_names != [words]:
        with warnings.catch_warnings():  # Optuna has called it experimental since 3.2
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([words])


def explain(study: optuna.Study, number: int, evidence: Evidence) -> None:
    """Add seeds, spread, run keys, times and a curve to a trial, which Optuna allows only while it runs."""
    # A study that is asked for one trial reads all that run: of two thousand, two thousand times.
    storage, study_id = study._storage, study._study_id  # pyright: ignore[reportPrivateUsage]
    trial = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    if storage.get_trial(trial).state.is_finished():
        return
    told: dict[str, Any] = {"seeds": list(evidence.seeds), "runs": list(evidence.run_keys)}
    told[_NUM_VALUED] = len(evidence.values)
    if len(evidence.values) > 1:
        told["std"] = round(stdev(evidence.values), VALUE_DECIMALS)
    if evidence.started is not None and evidence.ended is not None:
        told |= {"started": evidence.started, "ended": evidence.ended}
    for name, value in told.items():
        storage.set_trial_user_attr(trial, name, value)
    epochs = sorted(evidence.curve, reverse=True)
    every = max(1, -(-len(epochs) // MOST_STEPS))
    for epoch in reversed(epochs[::every]):  # the last one is always there
        storage.set_trial_intermediate_value(trial, epoch, round(evidence.curve[epoch], VALUE_DECIMALS))


def date(study: optuna.Study, number: int, evidence: Evidence) -> None:
    """Date a trial that was told by its runs, where their times are known.

    Optuna itself dates it by when it was proposed, with all others of a grid, and by when it was told; a
    dashboard's timeline then shows that all trials took as long as the sweep. Should an Optuna to come keep
    its trials elsewhere, its own dates stay: no sweep stops for them.
    """
    if evidence.started is None or evidence.ended is None:
        return
    storage: Any = study._storage  # pyright: ignore[reportPrivateUsage] - Optuna offers no other way
    trial = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)  # pyright: ignore[reportPrivateUsage]
    times = {"datetime_start": _local(evidence.started), "datetime_complete": _local(evidence.ended)}
    engine = getattr(storage, "_backend", storage).engine
    with contextlib.suppress(SQLAlchemyError), engine.begin() as connection:
        connection.execute(update(_TRIALS).where(_TRIALS.c.trial_id == trial).values(**times))


def lacks_values(trial: FrozenTrial) -> bool:
    """Return whether a trial was told while some of its seeds had no value: they had failed, or diverged."""
    is_told = trial.state in (TrialState.COMPLETE, TrialState.FAIL)
    return is_told and num_valued(trial) < len(trial.user_attrs.get("seeds", "?"))


def num_valued(trial: FrozenTrial) -> int:
    """Return how many seeds had a value when a trial was told."""
    everything = len(trial.user_attrs.get("seeds", "?")) if trial.state is TrialState.COMPLETE else 0
    return trial.user_attrs.get(_NUM_VALUED, everything)  # which earlier versions did not tell


def reopen(study: optuna.Study, numbers: Sequence[int]) -> optuna.Study:
    """Let trials that were told run again; return the study anew: the one given remembers them as told.

    A run that failed is trained again on request, which Optuna does not know: to it, what is told is final.
    """
    storage: Any = study._storage  # pyright: ignore[reportPrivateUsage] - Optuna offers no other way
    backend = getattr(storage, "_backend", storage)
    is_one = (_TRIALS.c.study_id == study._study_id) & _TRIALS.c.number.in_(numbers)  # pyright: ignore[reportPrivateUsage]
    with contextlib.suppress(SQLAlchemyError), backend.engine.begin() as connection:
        connection.execute(update(_TRIALS).where(is_one).values(state=TrialState.RUNNING.name))
    return optuna.load_study(study_name=study.study_name, storage=backend)


def _local(moment: str) -> datetime:
    """Return a time as Optuna keeps it: that of this machine's clock, without a zone."""
    return datetime.fromisoformat(moment).astimezone().replace(tzinfo=None)
