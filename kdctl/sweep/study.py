"""Optuna's part in a sweep: which configurations to run next, by ask-and-tell.

One trial is one configuration; seeds are runs below it and never a suggested parameter. Grid points
are added in the recipe's order (Optuna's own grid sampler repeats and skips points under
concurrency). The study lives in the file that holds our tables, so optuna-dashboard can read it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from kdctl.errors import KdctlError
from kdctl.files import sqlite_path
from kdctl.recipe.space import Point, Search
from kdctl.sweep.dashboard import (
    VALUE_DECIMALS,
    Evidence,
    date,
    explain,
    lacks_values,
    name_values,
    num_valued,
    reopen,
)
from kdctl.sweep.distributions import as_distribution, as_parameters, from_scalar, grid_distributions
from kdctl.sweep.study_faults import explained_study

POINT = "kdctl_point"
"""User attribute of a trial: the configuration as JSON, as the recipe wrote it."""

_BUSY_SECONDS = 60
"""How long Optuna waits for another process that writes."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration that Optuna wants to see run."""

    trial: int
    point: Point


class ConfigurationStudy:
    """An Optuna study over configurations, safe to open again after any crash."""

    def __init__(self, study: optuna.Study, lock: FileLock) -> None:
        """Wrap a study; use `open_study`. `lock` makes processes choose in turn."""
        self._study = study
        self._lock = lock

    def proposals(self) -> list[Proposal]:
        """Return all configurations that were proposed so far, also by earlier starts."""
        return _proposals(self._study)

    def propose_grid(self, points: Sequence[Point]) -> list[Proposal]:
        """Return a trial for every point, in their order; those an earlier start made are used again."""
        with self._lock:
            known = {_to_json(proposal.point.values) for proposal in self.proposals()}
            distributions = grid_distributions(points) | self._earlier_distributions()
            for point in points:
                text = _to_json(point.values)
                if text not in known:
                    known.add(text)
                    self._study.add_trial(_running_trial(point, text, distributions))
        trials = {_to_json(proposal.point.values): proposal.trial for proposal in self.proposals()}
        return [Proposal(trial=trials[_to_json(point.values)], point=point) for point in points]

    def untold(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Return the proposals whose value Optuna does not know yet."""
        told = {t.number for t in self._study.get_trials(deepcopy=False) if t.state.is_finished()}
        return [proposal for proposal in proposals if proposal.trial not in told]

    def told_in_part(self, proposals: Sequence[Proposal]) -> list[tuple[Proposal, int]]:
        """Return the proposals that Optuna was told of while a seed had no value, with how many had one."""
        trials = {trial.number: trial for trial in self._study.get_trials(deepcopy=False)}
        told = [(proposal, trials[proposal.trial]) for proposal in proposals]
        return [(proposal, num_valued(trial)) for proposal, trial in told if lacks_values(trial)]

    def reopen(self, proposals: Sequence[Proposal]) -> None:
        """Let the trials of these proposals be told anew: more of their seeds have a value now."""
        if proposals:
            with self._lock:
                self._study = reopen(self._study, [proposal.trial for proposal in proposals])

    def propose_search(self, search: Search) -> list[Proposal]:
        """Return the next batch of configurations; empty once there were enough trials."""
        with self._lock:
            number = sum(POINT in trial.user_attrs for trial in self._study.get_trials(deepcopy=False))
            wanted = min(search.batch, search.trials - number)
            return [self._ask(search, number + place) for place in range(wanted)]

    def tell(self, proposal: Proposal, value: float | None, evidence: Evidence | None = None) -> None:
        """Report the mean over seeds; None when no seed finished. Told again (without `reopen`), it stays.

        With evidence, a dashboard shows what the value rests on: seeds, spread, run keys, a curve, and when.
        """
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        rounded = None if value is None else round(value, VALUE_DECIMALS)
        with self._lock:
            if evidence is not None:
                explain(self._study, proposal.trial, evidence)
            self._study.tell(proposal.trial, rounded, state=state, skip_if_finished=True)
            if evidence is not None:
                date(self._study, proposal.trial, evidence)

    def tell_pruned(self, proposal: Proposal) -> None:
        """Report that a configuration was dropped on the way: samplers take it for a bad one."""
        with self._lock:
            self._study.tell(proposal.trial, state=TrialState.PRUNED, skip_if_finished=True)

    def _earlier_distributions(self) -> dict[str, BaseDistribution]:
        """Return those that the study's trials have: Optuna wants the same kind in all of them."""
        trials = self._study.get_trials(deepcopy=False)
        return {name: kind for trial in trials for name, kind in trial.distributions.items()}

    def _ask(self, search: Search, number: int) -> Proposal:
        self._study.sampler = _sampler(search, number)
        trial = self._study.ask({dotted: as_distribution(choice) for dotted, choice in search.space.items()})
        values = {dotted: from_scalar(value) for dotted, value in trial.params.items()}
        trial.set_user_attr(POINT, _to_json(values))
        return Proposal(trial=trial.number, point=Point(values=values))


@contextmanager
def open_study(database: Path, name: str, *, split: str = "test") -> Generator[ConfigurationStudy]:
    """Open or create the study called `name`, whose values are maximised, in our database file.

    Args:
        database: the file.
        name: of the study.
        split: on which its values are measured, 'test' or 'val'.

    Raises:
        MachineError: Optuna cannot use the file: the disk is full, another program locks it, it is damaged.
    """
    lock = _lock(database)
    with explained_study(database), ExitStack() as stack:
        with lock:  # Optuna's first opening of a file is not safe among processes
            storage = _storage(database)
            stack.callback(_close, storage)
            study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
            name_values(study, split)
        yield ConfigurationStudy(study, lock)


def require_sampler(search: Search) -> None:
    """Make sure that the package is there that a sampler needs.

    Raises:
        KdctlError: it is not.
    """
    if search.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise KdctlError(
            "[search] sampler = 'cmaes' needs the package cmaes, which is not installed.",
            "pip install 'kdctl[cmaes]', or take sampler = 'tpe'.",
        )


def _proposals(study: optuna.Study) -> list[Proposal]:
    """Return what was proposed; a trial without a point is of a process that was killed while it asked."""
    return [
        Proposal(trial=trial.number, point=Point(values=json.loads(trial.user_attrs[POINT])))
        for trial in study.get_trials(deepcopy=False)
        if POINT in trial.user_attrs
    ]


def known_points(open_to_read: Callable[[], sqlite3.Connection], name: str) -> list[Point]:
    """Return the configurations that the study called `name` has proposed; none if there is no such study.

    Args:
        open_to_read: opens our database file, which stays as it is.
        name: of the study.
    """
    with closing(open_to_read()) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchone():
            return []
    storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": open_to_read})
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        return []
    else:
        return [proposal.point for proposal in _proposals(study)]
    finally:
        _close(storage)


def _lock(database: Path) -> FileLock:
    return FileLock(f"{database}.optuna-lock")


def _storage(database: Path) -> optuna.storages.RDBStorage:
    """Return Optuna's storage in our database file, which no URL names: a path may hold '?', '%' or '{'."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.RDBStorage(
        "sqlite:///of-the-creator", engine_kwargs={"creator": partial(_connect, database)}
    )


def _connect(database: Path) -> sqlite3.Connection:
    """Open the file, and wait for the disk at checkpoints only, as `store/database.py` does.

    A trial is a dozen transactions. A power cut may lose the last trials; the next start proposes them again.
    """
    connection = sqlite3.connect(sqlite_path(database), timeout=_BUSY_SECONDS, check_same_thread=False)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _close(storage: optuna.storages.RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """Return a sampler for one trial: seeded by its number, it does not repeat itself in the next process."""
    digest = hashlib.sha256(f"{search.sampler_seed}/{number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if search.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _running_trial(point: Point, text: str, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """Return a trial that runs at a point; asking for an enqueued one would read all trials each time."""
    parameters = as_parameters(point.values)
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=parameters,
        distributions={dotted: distributions[dotted] for dotted in parameters},
        user_attrs={POINT: text},
    )
