"""Rungs of a sweep, before it runs: whether they lie where accuracies tell something, and what they save."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from kdctl.assembly.planning import Planner
from kdctl.errors import Mistake, RecipeError
from kdctl.recipe.limits import FEWEST_FOR_STD_ERROR, Limits, Pruning
from kdctl.recipe.optimization import Schedule
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe
from kdctl.serialization import canonical_json
from kdctl.sweep.standings import share_of
from kdctl.workflows.racing import race_of


def require_rungs(planner: Planner, plans: Sequence[RunPlan]) -> None:
    """Make sure that `[pruning]` compares what can be compared, for all configurations.

    That its metric exists is checked with those of the other sections.

    Args:
        planner: of the recipe.
        plans: runs of all configurations, or of the corners of a search.

    Raises:
        RecipeError: everything that is wrong with its rungs.
    """
    pruning = planner.recipe.limits.pruning
    if pruning is None:
        return
    first = [plan for plan in plans if plan.seed == plans[0].seed]
    alike = {
        canonical_json([plan.data.tree(), plan.schedule.tree(), plan.method.tree()]): plan for plan in first
    }
    where = f"{planner.recipe.source}: [pruning]"
    mistakes = [
        *_differing_lengths(where, first),
        *(item for plan in alike.values() for item in _misplaced(where, pruning, planner, plan)),
    ]
    if mistakes:
        raise RecipeError(mistakes)


def _differing_lengths(where: str, plans: Sequence[RunPlan]) -> Iterator[Mistake]:
    lengths = sorted({plan.epochs for plan in plans})
    if len(lengths) > 1:
        words = f"{', '.join(map(str, lengths[:-1]))} and {lengths[-1]}"
        yield Mistake(
            problem=f"{where} compares runs at the same epoch, but there are runs of {words} epochs.",
            hint="give all configurations the same schedule.epochs, or leave [pruning] out.",
        )


def _misplaced(where: str, pruning: Pruning, planner: Planner, plan: RunPlan) -> Iterator[Mistake]:
    first, last = comparable_from(planner, plan), plan.epochs - 1
    hint = (
        f"curves cross where rates are high: take rungs from {first} to {last}."
        if first <= last
        else "no epoch is late enough: leave [pruning] out."
    )
    for epoch in pruning.epochs:
        named = f"{where} epochs = {list(pruning.epochs)}: {epoch}"
        if epoch >= plan.epochs:
            yield Mistake(problem=f"{named} saves nothing, runs have {plan.epochs} epochs.", hint=hint)
        elif epoch < first:
            schedule = f"with schedule '{plan.schedule.name}' and method '{plan.method.name}'"
            problem = f"{named} is too early, {schedule} accuracies tell something from epoch {first} on."
            yield Mistake(problem=problem, hint=hint)


def comparable_from(planner: Planner, plan: RunPlan) -> int:
    """Return the first epoch of a run at which its accuracy may be held against others.

    A method with several phases trains what it ships in the last of them, over which the schedule runs
    anew, stretched to its length.
    """
    epoch = cast(Schedule, plan.schedule.options).comparable_from
    structure = planner.structure(plan)
    if len(structure.phases) == 1:
        return epoch
    length = structure.phases[-1].epochs
    return plan.epochs - length + math.ceil((epoch - 1) * length / plan.epochs) + 1


@dataclass(frozen=True, kw_only=True)
class RunEpochs:
    """How many epochs of students a sweep will train."""

    everything: int
    """If nothing is dropped: equals stay, and perhaps none trails by the margin."""
    fewest: int
    """If all is dropped that may be."""


def run_epochs(recipe: Recipe, runs: Sequence[RunPlan]) -> RunEpochs | None:
    """Return how many epochs the runs of a recipe take; None without a grid and `[pruning]`."""
    limits, pruning = recipe.limits, recipe.limits.pruning
    if pruning is None or recipe.search is not None:
        return None
    races = Counter(race_of(run, pruning.among) for run in runs if run.seed == runs[0].seed).values()
    length, num_seeds = runs[0].epochs, len({run.seed for run in runs})
    return RunEpochs(
        everything=len(runs) * length,
        fewest=sum(_fewest_epochs(limits, number, length, num_seeds) for number in races),
    )


def _fewest_epochs(limits: Limits, number: int, length: int, num_seeds: int) -> int:
    """Return the epochs of a race of so many configurations, if all is dropped that may be."""
    pruning = limits.pruning
    rungs = pruning.epochs if pruning else ()
    total = number * (rungs[0] if rungs else length)
    for begin, end in itertools.pairwise((*rungs, length)):
        number = share_of(number, pruning.keep) if pruning and pruning.keep else number
        number = 1 if pruning and pruning.margin else number
        total += number * (end - begin)
    for seeds in range(1, num_seeds):
        if limits.racing and seeds >= limits.racing.min_seeds:
            number = min(number, 1)
        if limits.budget.target_std_error and seeds >= FEWEST_FOR_STD_ERROR:
            number = 0
        total += number * length
    return total
