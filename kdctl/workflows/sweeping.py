"""Sweep a recipe: every configuration of its grid or search, with every seed, each exactly once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from kdctl.errors import Mistake, RecipeError, UsageError
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import PlanContext, Recipe
from kdctl.recipe.space import Point, Search
from kdctl.records import RunState, Selection, StoredRun, SweepMember, canonical_json
from kdctl.sweep.study import ConfigurationStudy, Proposal, open_study
from kdctl.workflows.data import DataLibrary
from kdctl.workflows.execute import Executor, teacher_plans
from kdctl.workflows.planning import plan_context
from kdctl.workflows.progress import Progress, Silent
from kdctl.workflows.recipes import open_recipe
from kdctl.workflows.workspace import DATABASE, Workspace


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep will run, before it runs it."""

    recipe: Recipe
    teachers: tuple[RunPlan, ...]
    runs: tuple[RunPlan, ...]
    """Seed-outermost: all configurations with the first seed come first. Empty for a search."""
    states: Mapping[str, RunState]
    """Of the runs that the store knows already."""


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What a sweep came to."""

    name: str
    runs: list[StoredRun]
    """All runs, teachers first."""
    complete: bool
    """False: it was stopped, and the same command goes on."""

    @property
    def failed(self) -> list[StoredRun]:
        """Runs that ended without a result."""
        return [run for run in self.runs if run.state is RunState.FAILED]


def plan_sweep(recipe: Recipe | Path | str, workspace: Workspace) -> SweepPlan:
    """Resolve every configuration of a recipe with every seed.

    Raises:
        RecipeError: everything that is wrong with the recipe, over all its configurations.
    """
    opened = recipe if isinstance(recipe, Recipe) else open_recipe(recipe)
    context = plan_context(workspace, DataLibrary(workspace.data_root))
    runs = () if opened.search else _plans(opened, list(opened.points), context)
    if opened.search:
        _check_search(opened, opened.search, context)
    teachers = teacher_plans(runs)
    states = workspace.store.states([plan.key for plan in (*teachers, *runs)])
    return SweepPlan(recipe=opened, teachers=tuple(teachers), runs=runs, states=states)


def sweep(
    recipe: Recipe | Path | str,
    workspace: Workspace,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    gang_size: int = DEFAULT_GANG_SIZE,
    retry_failed: bool = False,
) -> SweepOutcome:
    """Run what the recipe asks for and the store does not have yet.

    Any number of starts, after each other or at once, train every run once.

    Raises:
        RecipeError: everything that is wrong with the recipe.
    """
    plan = plan_sweep(recipe, workspace)
    library = DataLibrary(workspace.data_root)
    executor = Executor(
        workspace=workspace,
        library=library,
        progress=progress or Silent(),
        stop=stop,
        gang_size=gang_size,
        retry_failed=retry_failed,
    )
    with ExitStack() as stack:
        study = stack.enter_context(
            open_study(workspace.runs / DATABASE, _study_name(plan.recipe), plan.recipe.search)
        )
        running = _RunningSweep(plan.recipe, study, executor, plan_context(workspace, library))
        if plan.recipe.search:
            running.search(plan.recipe.search)
        else:
            running.grid()
    return running.outcome()


@dataclass
class _RunningSweep:
    """One sweep while it runs."""

    recipe: Recipe
    study: ConfigurationStudy
    executor: Executor
    context: PlanContext

    def __post_init__(self) -> None:
        self.keys: dict[str, str] = {}

    def grid(self) -> None:
        """Run all points; gangs form over everything that shares a seed and a teacher."""
        proposals = self.study.propose_grid(self.recipe.points)
        self._complete(proposals, "test")

    def search(self, search: Search) -> None:
        """Ask for batches of configurations until there were enough."""
        while not self.executor.stop() and (proposals := self.study.propose_search(search)):
            if not self._complete(proposals, search.metric):
                return

    def outcome(self) -> SweepOutcome:
        """Return the state of all runs."""
        runs = self.executor.workspace.store.runs(keys=list(self.keys))
        complete = all(
            run.state not in (RunState.PLANNED, RunState.INTERRUPTED, RunState.RUNNING) for run in runs
        )
        return SweepOutcome(name=self.recipe.name, runs=runs, complete=complete)

    def _complete(self, proposals: list[Proposal], metric: str) -> bool:
        plans = _plans(self.recipe, [proposal.point for proposal in proposals], self.context)
        teachers = teacher_plans(plans)
        self.keys.update({plan.key: "teacher" for plan in teachers})
        self.keys.update({plan.key: "student" for plan in plans})
        store = self.executor.workspace.store
        store.add_runs([plan.planned() for plan in (*teachers, *plans)])
        members = [SweepMember(run_key=key, role=role) for key, role in self.keys.items()]
        store.record_sweep(self.recipe.name, self.recipe.tree, members=members)
        self.executor.complete(plans)
        return all([self._tell(proposal, metric) for proposal in proposals])  # noqa: C419 - tell them all

    def _tell(self, proposal: Proposal, metric: str) -> bool:
        """Tell Optuna the mean over seeds; False while runs of the configuration are open."""
        plans = [self.recipe.plan(proposal.point, seed, self.context) for seed in self.recipe.seeds]
        runs = self.executor.workspace.store.runs(keys=[plan.key for plan in plans])
        if any(run.state in (RunState.PLANNED, RunState.RUNNING, RunState.INTERRUPTED) for run in runs):
            return False
        values = [value for run in runs if (value := _accuracy(run, metric)) is not None]
        self.study.tell(proposal, fmean(values) if values else None)
        return True


def _plans(recipe: Recipe, points: list[Point], context: PlanContext) -> tuple[RunPlan, ...]:
    """Resolve points x seeds, seed-outermost, each run once; all mistakes of all points at once."""
    plans: dict[str, RunPlan] = {}
    mistakes: list[Mistake] = []
    for seed in recipe.seeds:
        for point in points:
            try:
                plan = recipe.plan(point, seed, context)
                plans.setdefault(plan.key, plan)
            except RecipeError as error:
                mistakes.extend(error.mistakes)
    if mistakes:
        raise RecipeError(mistakes)
    return tuple(plans.values())


def _check_search(recipe: Recipe, search: Search, context: PlanContext) -> None:
    """Resolve one configuration, so that mistakes show before the first trial."""
    lowest = {
        dotted: choice[0] if isinstance(choice, tuple) else choice.low
        for dotted, choice in search.space.items()
    }
    plan = recipe.plan(Point(values=lowest), recipe.seeds[0], context)
    if search.metric == "val" and plan.data.options.val_fraction == 0:
        raise UsageError(
            f"{recipe.source}: [search] metric = 'val', but no validation split is held out.",
            "set data.val_fraction = 0.1, or search.metric = 'test' (which selects on the test set).",
        )


def _accuracy(run: StoredRun, metric: str) -> float | None:
    if run.state is not RunState.FINISHED or run.result is None:
        return None
    last = run.result.selected[Selection.LAST.value]
    if metric == "val" and last.val is not None:
        return last.val.top1
    return last.test.top1


def _study_name(recipe: Recipe) -> str:
    """Name the study by recipe and space: Optuna freezes a study's choices, so a larger grid is a new one."""
    space = {key: recipe.tree.get(key) for key in ("grid", "search")}
    return f"{recipe.name}@{hashlib.sha256(canonical_json(space).encode()).hexdigest()[:8]}"
