"""What ends a sweep before all of its runs are done: `[budget]`, `[racing]`, and `[pruning]` at epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from kdctl.recipe.bounds import MOST_SEEDS
from kdctl.recipe.load import SMOKE
from kdctl.recipe.resolve import Resolver
from kdctl.text import plural

FEWEST_FOR_STD_ERROR = 3
"""Seeds below which nobody should trust a standard error; two may agree by chance."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The `[budget]` table; what is not given has no limit."""

    max_runs: Annotated[int, Gt(0)] | None = None
    """Student runs that are started, over all starts of the sweep."""
    device_hours: Annotated[float, Gt(0)] | None = None
    """Hours of training, over all starts; teachers that are trained for the sweep count, too."""
    wall_clock_hours: Annotated[float, Gt(0)] | None = None
    """Hours that each start may last."""
    target_std_error: Annotated[float, Gt(0)] | None = None
    """A configuration gets no more seeds once the standard error of its mean is this small; in points of
    test accuracy."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is limited."""
        return all(value is None for value in vars(self).values())


@dataclass(frozen=True, kw_only=True)
class Racing:
    """The `[racing]` table: configurations that trail the leader get no more seeds."""

    margin: Annotated[float, Gt(0)]
    """How far a mean may trail the leader's, in points of accuracy."""
    min_seeds: Annotated[int, Ge(1), Le(MOST_SEEDS)] = 2
    """Seeds that every configuration gets before it can be dropped."""
    among: Literal["settings", "methods"] = "settings"
    """Who races: the settings of one method and one pair of models, or all methods of one pair. A student
    without a teacher is what others are compared with, and never dropped for trailing a taught one."""
    metric: Literal["val", "test"] = "val"
    """The split whose accuracy decides."""


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """The `[pruning]` table: configurations that do badly with their first seed are dropped on the way."""

    epochs: tuple[Annotated[int, Gt(0)], ...]
    """The rungs: after so many epochs it is decided which configurations go on."""
    keep: Annotated[float, Gt(0), Lt(1)] | None = None
    """The share of a race that goes on, rounded up."""
    margin: Annotated[float, Gt(0)] | None = None
    """How far a run may trail the leader, in points of accuracy."""
    among: Literal["settings", "methods"] = "settings"
    """Who races, as in `[racing]`."""
    metric: Literal["val", "test"] = "val"
    """The split whose accuracy decides."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All three tables."""

    budget: Budget = Budget()
    racing: Racing | None = None
    pruning: Pruning | None = None

    @property
    def drops(self) -> bool:
        """Whether configurations may be left before all of their runs have ended."""
        return self.pruning is not None or self.drops_between_seeds

    @property
    def drops_between_seeds(self) -> bool:
        """Whether the results of some seeds decide who gets more."""
        return self.racing is not None or self.budget.target_std_error is not None


def read_limits(resolver: Resolver, *, seeds: Sequence[int], num_points: int) -> Limits:
    """Read the three tables; notes what is wrong and what contradicts the rest of the recipe.

    A recipe that is only tried (`--smoke`) has no limits.

    Args:
        resolver: of the recipe.
        seeds: of the recipe.
        num_points: of its grid; 0 for a search.
    """
    tree = resolver.merged.tree
    if resolver.merged.origin("seeds") == SMOKE:
        return Limits()
    budget = resolver.record(Budget, tree.get("budget"), "budget") or Budget()
    racing = resolver.record(Racing, tree["racing"], "racing") if "racing" in tree else None
    pruning = resolver.record(Pruning, tree["pruning"], "pruning") if "pruning" in tree else None
    if "budget" in tree and tree["budget"] == {}:
        names = ", ".join(item.name for item in dataclasses.fields(Budget))
        resolver.wrong("budget", "[budget] is empty.", f"give one of {names}, or leave it out.")
    _check_budget(resolver, budget, num_seeds=len(seeds), num_points=num_points)
    if racing is not None:
        _check_racing(resolver, racing, num_seeds=len(seeds), num_points=num_points)
    if pruning is not None:
        _check_pruning(resolver, pruning, num_points=num_points)
    return Limits(budget=budget, racing=racing, pruning=pruning)


def _check_budget(resolver: Resolver, budget: Budget, *, num_seeds: int, num_points: int) -> None:
    fewest = num_points or num_seeds
    if budget.max_runs is not None and num_seeds and budget.max_runs < fewest:
        what = f"its grid has {num_points} configurations" if num_points else f"it has {num_seeds} seeds"
        problem = f"[budget] max_runs = {budget.max_runs} contradicts the recipe: {what}."
        hint = f"allow {fewest} runs or more, or ask for fewer."
        resolver.wrong("budget.max_runs", problem, hint)
    if budget.target_std_error is not None:
        _check_std_error(resolver, num_seeds=num_seeds, num_points=num_points)


def _check_std_error(resolver: Resolver, *, num_seeds: int, num_points: int) -> None:
    where = "budget.target_std_error"
    if not num_points:
        problem = "[budget] target_std_error does not go with [search]: its trials all need the same seeds."
        resolver.wrong(where, problem, "leave it out, or write a [grid].")
    elif num_seeds <= FEWEST_FOR_STD_ERROR:
        problem = f"[budget] target_std_error can save nothing: the recipe has {plural(num_seeds, 'seed')}."
        hint = f"give more than {FEWEST_FOR_STD_ERROR} seeds: fewer do not tell a standard error."
        resolver.wrong(where, problem, hint)


def _check_racing(resolver: Resolver, racing: Racing, *, num_seeds: int, num_points: int) -> None:
    if not num_points:
        problem = "[racing] does not go with [search], which chooses by itself where to look."
        resolver.wrong("racing", problem, "leave [racing] out, or write a [grid].")
    elif num_seeds and racing.min_seeds >= num_seeds:
        number = plural(num_seeds, "seed")
        problem = f"[racing] min_seeds = {racing.min_seeds} can save nothing: the recipe has {number}."
        resolver.wrong("racing.min_seeds", problem, "lower min_seeds, or give more seeds.")


def _check_pruning(resolver: Resolver, pruning: Pruning, *, num_points: int) -> None:
    """Note what no schedule could make good; `workflows/rungs.py` holds the rungs against the schedules."""
    if num_points == 1:
        problem = "[pruning] can save nothing: the recipe has one configuration."
        resolver.wrong("pruning", problem, "leave it out, or write a [grid].")
    if list(pruning.epochs) != sorted(set(pruning.epochs)) or not pruning.epochs:
        problem = f"[pruning] epochs = {list(pruning.epochs)} is not a list of rising epochs."
        resolver.wrong("pruning.epochs", problem, "write, say, epochs = [160, 200].")
    if pruning.keep is None and pruning.margin is None:
        problem = "[pruning] does not say what is dropped."
        resolver.wrong("pruning", problem, "give keep = 0.5 (a share), margin = 5.0 (points), or both.")
