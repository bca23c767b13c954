"""Optuna's part in a sweep: which configurations to run next, by ask-and-tell from one process.

One trial is one configuration; seeds are runs below it and never a suggested parameter. Grid points
are enqueued in the recipe's order (Optuna's own grid sampler repeats and skips points under
concurrency). The study lives in the file that holds our tables, so optuna-dashboard can read it.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from kdctl.recipe.component import Range
from kdctl.recipe.space import Choice, Point, Search

POINT = "kdctl_point"
"""User attribute of a trial: the configuration as JSON, as the recipe wrote it."""

OPEN = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration that Optuna wants to see run."""

    trial: int
    point: Point


class ConfigurationStudy:
    """An Optuna study over configurations, safe to open again after any crash."""

    def __init__(self, study: optuna.Study) -> None:
        """Wrap a study; use `open_study`."""
        self._study = study

    def propose_grid(self, points: Sequence[Point]) -> list[Proposal]:
        """Return a trial for every point; those an earlier start made are used again."""
        known = {trial.user_attrs.get(POINT): trial for trial in self._study.get_trials(deepcopy=False)}
        for point in points:
            text = _to_json(point.values)
            if text not in known:
                self._study.enqueue_trial(
                    {dotted: _scalar(value) for dotted, value in point.values.items()},
                    user_attrs={POINT: text},
                )
        self._start_waiting(points)
        by_point = {
            trial.user_attrs.get(POINT): trial.number for trial in self._study.get_trials(deepcopy=False)
        }
        return [Proposal(trial=by_point[_to_json(point.values)], point=point) for point in points]

    def propose_search(self, search: Search) -> list[Proposal]:
        """Return the next batch of configurations; empty once there were enough trials.

        Trials that a killed process left open come first.
        """
        trials = self._study.get_trials(deepcopy=False)
        left_open = [trial for trial in trials if trial.state is TrialState.RUNNING]
        if left_open:
            return [Proposal(trial=trial.number, point=_point(trial)) for trial in left_open]
        wanted = min(search.batch, search.trials - len(trials))
        return [self._ask(search.space) for _ in range(wanted)]

    def tell(self, proposal: Proposal, value: float | None) -> None:
        """Report the mean over seeds; None when no seed finished. Telling again changes nothing."""
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        self._study.tell(proposal.trial, value, state=state, skip_if_finished=True)

    def _ask(self, space: Mapping[str, Choice]) -> Proposal:
        trial = self._study.ask({dotted: _distribution(choice) for dotted, choice in space.items()})
        values = {dotted: _from_scalar(value) for dotted, value in trial.params.items()}
        trial.set_user_attr(POINT, _to_json(values))
        return Proposal(trial=trial.number, point=Point(values=values))

    def _start_waiting(self, points: Sequence[Point]) -> None:
        """Turn enqueued trials into running ones."""
        choices: dict[str, list[Any]] = {}
        for point in points:
            for dotted, value in point.values.items():
                choices.setdefault(dotted, []).append(_scalar(value))
        while self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial = self._study.ask()
            for dotted in json.loads(trial.user_attrs[POINT]):
                trial.suggest_categorical(dotted, list(dict.fromkeys(choices[dotted])))


@contextmanager
def open_study(database: Path, name: str, search: Search | None) -> Generator[ConfigurationStudy]:
    """Open or create the study called `name` in our database file."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with FileLock(f"{database}.optuna-lock"):  # Optuna's first opening of a file is not safe among processes
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{database}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            sampler=_sampler(search),
        )
    try:
        yield ConfigurationStudy(study)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _sampler(search: Search | None) -> optuna.samplers.BaseSampler:
    if search is not None and search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=search.sampler_seed)
    return optuna.samplers.RandomSampler(seed=search.sampler_seed if search else 0)


def _distribution(choice: Choice) -> BaseDistribution:
    if not isinstance(choice, Range):
        return CategoricalDistribution([_scalar(value) for value in choice])
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return IntDistribution(choice.low, choice.high, log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)


def _point(trial: FrozenTrial) -> Point:
    text = trial.user_attrs.get(POINT)
    if text is not None:
        return Point(values=json.loads(text))
    return Point(values={dotted: _from_scalar(value) for dotted, value in trial.params.items()})


def _to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _scalar(value: Any) -> Any:
    """Return what Optuna can store: tables and lists as JSON text."""
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value, sort_keys=True)


def _from_scalar(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "{[":
        return json.loads(value)
    return value
