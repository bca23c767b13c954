"""Train the runs of a recipe without a search space, and the teachers they need."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdctl.assembly.catalog import open_recipe
from kdctl.assembly.failure import RunsFailedError, mistakes_of
from kdctl.assembly.planning import NO_POINT, Planner
from kdctl.assembly.progress import Progress
from kdctl.assembly.structure import Structure
from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError
from kdctl.execution.executor import ExecutorConfig
from kdctl.execution.scheduler import open_scheduler, teacher_plans
from kdctl.recipe.limits import Limits
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe
from kdctl.records import SETTLED, RunState, StoredRun
from kdctl.report.baseline import BASELINE_METHOD
from kdctl.report.leaders import weak_teacher_lines


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What a training will do, before it does it."""

    planner: Planner
    """What resolved the recipe."""
    runs: tuple[RunPlan, ...]
    """One for each seed."""
    teachers: tuple[RunPlan, ...]
    """Trained first, unless they are finished."""
    states: dict[str, RunState]
    """Of the runs that the store knows already."""
    structure: Structure
    """How the method joins student and teachers, the same for each seed."""
    notes: tuple[str, ...] = ()
    """Lengths of teachers and students, and warnings of what looks wrong."""

    @property
    def to_do(self) -> list[RunPlan]:
        """Runs that need training, teachers first."""
        everything = (*self.teachers, *self.runs)
        return [plan for plan in everything if self.states.get(plan.key) not in SETTLED]


def plan_training(recipe: Recipe | Path | str, workspace: Workspace) -> TrainPlan:
    """Resolve a recipe without `[grid]` and `[search]` into its runs.

    Raises:
        RecipeError: everything that is wrong with the recipe.
    """
    return _plan(_opened(recipe), workspace)


def train(
    recipe: TrainPlan | Recipe | Path | str,
    workspace: Workspace,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    executor: ExecutorConfig | None = None,
) -> list[StoredRun]:
    """Train the recipe's run for each seed, teachers first, and return them.

    Finished runs are not trained again, interrupted and failed ones go on. A run that diverged is
    returned as such.

    Args:
        recipe: what to train; a plan of it, as `plan_training` made it, is not made again.
        workspace: where runs and data lie.
        progress: is told how it goes.
        stop: says when to save everything and return.
        executor: who trains; this process if not given.

    Raises:
        RecipeError: everything that is wrong with the recipe.
        KdctlError: data are missing, a teacher does not fit.
        RunsFailedError: what stopped the runs that failed; the others are finished nevertheless.
    """
    runs = (recipe if isinstance(recipe, TrainPlan) else plan_training(recipe, workspace)).runs
    keys = [run.key for run in runs]
    workspace.store.revive(keys)  # a sweep dropped them, and this asks for them
    with open_scheduler(
        workspace, executor=executor, progress=progress, stop=stop, retry_failed=True
    ) as scheduler:
        scheduler.complete(runs)
    trained = workspace.store.runs(keys=keys)
    if mistakes := mistakes_of(trained, scheduler.failures):
        raise RunsFailedError(mistakes)
    return trained


def weak_teachers(runs: Sequence[StoredRun], workspace: Workspace) -> list[str]:
    """Return a sentence for each teacher of `runs` that is below its student without one, in the store."""
    if not any(run.result and run.result.teacher_test_top1 is not None for run in runs):
        return []
    students = {str(run.plan["student"]["name"]) for run in runs}
    baselines = [
        brief.key
        for brief in workspace.store.briefs()
        if brief.method == BASELINE_METHOD and brief.student in students
    ]
    return weak_teacher_lines([*runs, *workspace.store.runs(keys=baselines)])


def _by_a_sweep(recipe: Recipe) -> str:
    """Say what to type; options of one run, such as --student, hide the file that they were laid upon."""
    if recipe.source.endswith(".toml"):
        return f"run it with: kdctl sweep {shlex.quote(recipe.source)}"
    return (
        "run it with: kdctl sweep RECIPE; it takes a student as -o student=NAME, a method as -o method=NAME."
    )


def _plan(recipe: Recipe, workspace: Workspace) -> TrainPlan:
    if recipe.search or recipe.points != (NO_POINT,):
        raise UsageError(
            f"recipe '{recipe.name}' has a search space.",
            _by_a_sweep(recipe),
        )
    if recipe.limits != Limits():
        raise UsageError(
            f"{recipe.source}: [budget], [racing] and [pruning] hold for sweeps, not for a single training.",
            _by_a_sweep(recipe),
        )
    planner = Planner(recipe, workspace)
    runs = planner.replicates(NO_POINT)
    teachers = tuple(teacher_plans(runs))
    known = workspace.store.states([run.key for run in (*teachers, *runs)])
    states = {key: state for key, state in known.items() if state is not RunState.PRUNED}
    return TrainPlan(
        planner=planner,
        runs=runs,
        teachers=teachers,
        states=states,
        structure=planner.structure(runs[0]),
        notes=planner.notes(teachers, runs),
    )


def _opened(recipe: Recipe | Path | str) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else open_recipe(recipe)
