"""Train the runs of a recipe without a search space, and the teachers they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdctl.errors import UsageError
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe
from kdctl.recipe.space import Point
from kdctl.records import RunState, StoredRun
from kdctl.workflows.data import DataLibrary
from kdctl.workflows.execute import Executor, teacher_plans
from kdctl.workflows.planning import plan_context
from kdctl.workflows.progress import Progress, Silent
from kdctl.workflows.recipes import open_recipe
from kdctl.workflows.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What a training will do, before it does it."""

    runs: tuple[RunPlan, ...]
    """One for each seed."""
    teachers: tuple[RunPlan, ...]
    """Trained first, unless they are finished."""
    states: dict[str, RunState]
    """Of the runs that the store knows already."""


def plan_training(recipe: Recipe | Path | str, workspace: Workspace) -> TrainPlan:
    """Resolve a recipe without `[grid]` and `[search]` into its runs.

    Raises:
        RecipeError: everything that is wrong with the recipe.
    """
    return _plan(_opened(recipe), workspace, DataLibrary(workspace.data_root))


def train(
    recipe: Recipe | Path | str,
    workspace: Workspace,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[StoredRun]:
    """Train the recipe's run for each seed, teachers first, and return them.

    Finished runs are not trained again, interrupted and failed ones go on.

    Raises:
        RecipeError: everything that is wrong with the recipe.
        KdctlError: data are missing, a teacher does not fit.
    """
    library = DataLibrary(workspace.data_root)
    plan = _plan(_opened(recipe), workspace, library)
    executor = Executor(
        workspace=workspace, library=library, progress=progress or Silent(), stop=stop, retry_failed=True
    )
    executor.complete(plan.runs)
    return workspace.store.runs(keys=[run.key for run in plan.runs])


def _plan(recipe: Recipe, workspace: Workspace, library: DataLibrary) -> TrainPlan:
    if recipe.search or recipe.points != (Point(values={}),):
        raise UsageError(
            f"recipe '{recipe.name}' has a search space.", f"run it with: kdctl sweep {recipe.source}"
        )
    context = plan_context(workspace, library)
    runs = tuple(recipe.plan(Point(values={}), seed, context) for seed in recipe.seeds)
    teachers = tuple(teacher_plans(runs))
    states = workspace.store.states([run.key for run in (*teachers, *runs)])
    return TrainPlan(runs=runs, teachers=teachers, states=states)


def _opened(recipe: Recipe | Path | str) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else open_recipe(recipe)
