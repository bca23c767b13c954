"""What optuna-dashboard is given besides values: what they are, what they rest on, curves and times."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import stdev

import optuna
from sqlalchemy import DateTime, Engine, column, table, update

METRIC_WORDS = {
    "test": "top-1 test accuracy (%), mean over seeds",
    "val": "top-1 validation accuracy (%), mean over seeds",
}
"""What a study's value is, by the split it is measured on; a dashboard writes it on its axis."""

VALUE_DECIMALS = 4
"""Of a value: less than one image in ten thousand, over any number of seeds that anyone has."""

MOST_STEPS = 16
"""Intermediate values that a trial is given: each is a transaction of Optuna's."""

_TRIALS = table(
    "trials", column("trial_id"), column("datetime_start", DateTime), column("datetime_complete", DateTime)
)


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
    started: datetime | None
    """When the first run began; None where that is not known."""
    ended: datetime | None
    """When the last run ended."""


def name_values(study: optuna.Study, split: str) -> None:
    """Say that the values of a study are accuracies on `split`, if it is not said yet."""
    words = METRIC_WORDS[split]
    if study.metric_names != [words]:
        with warnings.catch_warnings():  # Optuna has called it experimental since 3.2
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([words])


def explain(study: optuna.Study, number: int, evidence: Evidence) -> None:
    """Add seeds, spread, run keys and a curve to a trial, which Optuna allows only while it runs."""
    known = study.get_trials(deepcopy=False)[number]
    if known.state.is_finished():
        return
    trial = optuna.trial.Trial(study, known._trial_id)
    trial.set_user_attr("seeds", list(evidence.seeds))
    trial.set_user_attr("runs", list(evidence.run_keys))
    if len(evidence.values) > 1:
        trial.set_user_attr("std", round(stdev(evidence.values), VALUE_DECIMALS))
    epochs = sorted(evidence.curve, reverse=True)
    every = max(1, -(-len(epochs) // MOST_STEPS))
    for epoch in reversed(epochs[::every]):  # the last one is always there
        trial.report(round(evidence.curve[epoch], VALUE_DECIMALS), epoch)


def date(study: optuna.Study, number: int, evidence: Evidence, engine: Engine) -> None:
    """Let a trial begin and end when its runs did, not when it was proposed and told.

    Optuna has no call for that. All its other columns are left to it.
    """
    if evidence.started is None or evidence.ended is None:
        return
    times = {
        "datetime_start": evidence.started.astimezone().replace(tzinfo=None),  # Optuna keeps local times
        "datetime_complete": evidence.ended.astimezone().replace(tzinfo=None),
    }
    trial = study.get_trials(deepcopy=False)[number]
    with engine.begin() as connection:
        connection.execute(update(_TRIALS).where(_TRIALS.c.trial_id == trial._trial_id).values(times))
