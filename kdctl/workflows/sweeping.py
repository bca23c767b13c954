"""Sweep a recipe: every configuration of its grid or search, with every seed, each exactly once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from kdctl.errors import Mistake, UsageError
from kdctl.recipe.component import Range
from kdctl.recipe.gangs import DEFAULT_GANG_SIZE
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe
from kdctl.recipe.space import Choice, Search
from kdctl.records import SETTLED, RunState, Selection, StoredRun, SweepMember
from kdctl.store.sweep_files import keep_sweep
from kdctl.sweep.study import ConfigurationStudy, Proposal, known_points, open_study
from kdctl.workflows.crew import CrewPlan
from kdctl.workflows.execute import Executor, hired, teacher_plans
from kdctl.workflows.failure import mistakes_of
from kdctl.workflows.identity import lost_members
from kdctl.workflows.planning import Planner
from kdctl.workflows.progress import Progress
from kdctl.workflows.readiness import require_ready
from kdctl.workflows.recipes import open_recipe
from kdctl.workflows.workspace import DATABASE, Workspace

OPEN = frozenset({RunState.PLANNED, RunState.INTERRUPTED, RunState.RUNNING})
"""States of runs that are still to come to an end."""


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep will run, before it runs it."""

    recipe: Recipe
    study: str
    """Name of the study in Optuna's tables."""
    teachers: tuple[RunPlan, ...]
    runs: tuple[RunPlan, ...]
    """Seed-outermost: all configurations with the first seed come first. Of a search, those chosen so far."""
    num_later: int
    """How many more runs a search will choose."""
    example: RunPlan
    """One of the runs, or a run like those that a search will choose."""
    states: Mapping[str, RunState]
    """Of the runs that the store knows already."""
    retry_failed: bool = False
    """True: runs that failed before are to be done."""
    leaving: tuple[str, ...] = ()
    """Keys of runs that belong to the sweep of this name now, and will not any more."""

    @property
    def num_configurations(self) -> int:
        """How many configurations there are or will be."""
        chosen = {plan.configuration for plan in self.runs}
        return len(chosen) + self.num_later // len(self.recipe.seeds)

    @property
    def num_failed(self) -> int:
        """How many runs failed and are left so."""
        return 0 if self.retry_failed else sum(state is RunState.FAILED for state in self.states.values())

    @property
    def num_settled(self) -> int:
        """How many runs are done."""
        return len(self.teachers) + len(self.runs) - len(self.to_do) - self.num_failed

    @property
    def to_do(self) -> list[RunPlan]:
        """Runs that are known already and will be trained, teachers first."""
        closed = SETTLED if self.retry_failed else SETTLED | {RunState.FAILED}
        everything = (*self.teachers, *self.runs)
        return [plan for plan in everything if self.states.get(plan.key) not in closed]

    @property
    def ahead(self) -> list[RunPlan]:
        """Runs to do, and one that stands for those a search will choose."""
        return [*self.to_do, self.example] if self.num_later else self.to_do


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What a sweep came to."""

    name: str
    runs: tuple[StoredRun, ...]
    """All runs, teachers among them, in the order in which they were planned."""
    complete: bool
    """False: it was stopped, and the same command goes on."""
    failures: tuple[Mistake, ...]
    """What is to be mended for the runs that failed."""


def plan_sweep(
    recipe: Recipe | Path | str, workspace: Workspace, *, retry_failed: bool = False, replace: bool = False
) -> SweepPlan:
    """Resolve every configuration of a recipe with every seed.

    Raises:
        RecipeError: everything that is wrong with the recipe, over all its configurations.
        UsageError: there is a sweep of this name with other content, and `replace` does not say to
            forget that.
    """
    return _plan(_planner(recipe, workspace), workspace, retry_failed=retry_failed, replace=replace)


def sweep(
    recipe: Recipe | Path | str,
    workspace: Workspace,
    *,
    crew: CrewPlan | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    gang_size: int = DEFAULT_GANG_SIZE,
    retry_failed: bool = False,
    replace: bool = False,
) -> SweepOutcome:
    """Run what the recipe asks for and the store does not have yet.

    Any number of starts, after each other or at once, train every run once.

    Args:
        recipe: what to run.
        workspace: where runs and data lie.
        crew: who trains; this process if not given. Results do not depend on it.
        progress: hears how it goes.
        stop: says when to save everything and return.
        gang_size: runs that train in lockstep, at most.
        retry_failed: start runs again that failed before.
        replace: let the name of the recipe mean this content from now on.

    Raises:
        RecipeError: everything that is wrong with the recipe.
        UsageError: there is a sweep of this name with other content.
        KdctlError: device or data are missing; then nothing was started.
    """
    planner = _planner(recipe, workspace)
    plan = _plan(planner, workspace, retry_failed=retry_failed, replace=replace)
    require_ready(plan.ahead, workspace)
    with (
        open_study(workspace.runs / DATABASE, plan.study) as study,
        hired(
            workspace,
            crew=crew,
            progress=progress,
            stop=stop,
            gang_size=gang_size,
            retry_failed=retry_failed,
        ) as executor,
    ):
        running = _RunningSweep(planner, study, executor, plan.leaving)
        complete = running.search(planner.recipe.search) if planner.recipe.search else running.grid()
        return running.outcome(complete=complete)


@dataclass
class _RunningSweep:
    """One sweep while it runs."""

    planner: Planner
    study: ConfigurationStudy
    executor: Executor
    leaving: Sequence[str]
    """Keys of runs that belong to this sweep no more."""
    roles: dict[str, str] = field(default_factory=dict[str, str])
    """By run key: 'student' or 'teacher'."""

    def grid(self) -> bool:
        """Run all points; gangs form over everything that shares a seed and a teacher."""
        return self._complete(self.study.propose_grid(self.planner.recipe.points), "test")

    def search(self, search: Search) -> bool:
        """Finish the configurations of earlier starts, then ask for new ones until there were enough."""
        proposals = self.study.proposals() or self.study.propose_search(search)
        chosen = 0
        while proposals:
            chosen += len(proposals)
            if not self._complete(proposals, search.metric, num_later=max(search.trials - chosen, 0)):
                return False
            proposals = self.study.propose_search(search)
        return True

    def outcome(self, *, complete: bool) -> SweepOutcome:
        """Return the state of all runs."""
        runs = self.executor.workspace.store.runs(keys=self.roles)
        return SweepOutcome(
            name=self.planner.recipe.name,
            runs=tuple(runs),
            complete=complete,
            failures=mistakes_of(runs, self.executor.failures),
        )

    def _complete(self, proposals: Sequence[Proposal], metric: str, num_later: int = 0) -> bool:
        """Run configurations and tell Optuna their means; False while some of their runs are open."""
        recipe, store = self.planner.recipe, self.executor.workspace.store
        plans = self.planner.runs(proposal.point for proposal in proposals)
        teachers = teacher_plans(plans)
        store.add_runs([plan.planned() for plan in (*teachers, *plans)])
        self.roles |= {plan.key: "teacher" for plan in teachers} | {plan.key: "student" for plan in plans}
        members = [SweepMember(run_key=key, role=role) for key, role in self.roles.items()]
        keep_sweep(
            *(store, self.executor.workspace.runs, recipe.name, recipe.tree),
            members=members,
            leaving=self.leaving,
        )
        self.executor.complete(plans, later=num_later * len(recipe.seeds))
        runs = {run.key: run for run in store.runs(keys=[plan.key for plan in plans])}
        for proposal in proposals:
            self._tell(proposal, [runs[plan.key] for plan in self.planner.replicates(proposal.point)], metric)
        return not any(run.state in OPEN for run in runs.values())

    def _tell(self, proposal: Proposal, runs: Sequence[StoredRun], metric: str) -> None:
        """Tell Optuna the mean over seeds, once all of them have ended."""
        if any(run.state in OPEN for run in runs):
            return
        values = [value for run in runs if (value := _accuracy(run, metric)) is not None]
        self.study.tell(proposal, fmean(values) if values else None)


def _planner(recipe: Recipe | Path | str, workspace: Workspace) -> Planner:
    opened = recipe if isinstance(recipe, Recipe) else open_recipe(recipe)
    return Planner(opened, workspace)


def _plan(planner: Planner, workspace: Workspace, *, retry_failed: bool, replace: bool) -> SweepPlan:
    recipe, search = planner.recipe, planner.recipe.search
    if search is None:
        runs = planner.runs(recipe.points)
        study, example, num_later = _study_name(recipe, runs), runs[0], 0
    else:
        probes = planner.probe({dotted: _corners(choice) for dotted, choice in search.space.items()})
        study, example = _study_name(recipe, probes), probes[0]
        _require_split(recipe, search, example)
        chosen = known_points(workspace.runs / DATABASE, study) if workspace.store.sweeps() else []
        runs = planner.runs(chosen)
        num_later = max(search.trials - len(chosen), 0) * len(recipe.seeds)
    teachers = teacher_plans((*runs, example))
    return SweepPlan(
        recipe=recipe,
        study=study,
        teachers=tuple(teachers),
        runs=runs,
        num_later=num_later,
        example=example,
        states=workspace.store.states([plan.key for plan in (*teachers, *runs)]),
        retry_failed=retry_failed,
        leaving=lost_members(workspace, recipe, runs, example=example, replace=replace),
    )


def _corners(choice: Choice) -> tuple[object, ...]:
    return (choice.low, choice.high) if isinstance(choice, Range) else choice


def _require_split(recipe: Recipe, search: Search, example: RunPlan) -> None:
    if search.metric == "val" and example.data.options.val_fraction == 0:
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


def _study_name(recipe: Recipe, plans: Sequence[RunPlan]) -> str:
    """Name the study by recipe and by all that its values depend on.

    Optuna freezes the choices of a study and the value of a trial. So another grid, other seeds of a
    grid or another epoch number make another study, which is told at once what runs have shown
    already. More seeds of a search do not: its trials stay what the search has learned from.
    """
    search = recipe.search
    wishes = [repr(recipe.seeds)] if search is None else [repr(dict(search.space)), search.metric]
    text = "/".join([*wishes, *dict.fromkeys(plan.configuration for plan in plans)])
    return f"{recipe.name}@{hashlib.sha256(text.encode()).hexdigest()[:8]}"
