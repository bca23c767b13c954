"""What a sweep will run, before it runs it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdctl.assembly.catalog import full_catalog, open_recipe
from kdctl.assembly.planning import Planner
from kdctl.assembly.workspace import Workspace
from kdctl.errors import Mistake, RecipeError
from kdctl.execution.scheduler import teacher_plans
from kdctl.recipe.plan import RunPlan
from kdctl.recipe.recipe import Recipe
from kdctl.recipe.sections import fields_called
from kdctl.recipe.space import Point, Search
from kdctl.records import SETTLED, RunState
from kdctl.report.mistakes import doubtful_numbers, wrong_options
from kdctl.store.backup import open_to_read
from kdctl.workflows.identity import lost_members
from kdctl.workflows.rungs import require_rungs


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep will run, before it runs it."""

    planner: Planner
    """What resolved the recipe, and resolves the configurations that a search will choose."""
    study: str
    """Name of the study in Optuna's tables."""
    teachers: tuple[RunPlan, ...]
    """Runs that the recipe does not ask for itself. A teacher that is a student, too, is one of `runs`."""
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
    replace: bool = False
    """True: runs that were started may leave the sweep of this name."""
    leaving: tuple[str, ...] = ()
    """Keys of runs that belong to the sweep of this name now, and will not any more."""

    @functools.cached_property
    def notes(self) -> tuple[str, ...]:
        """Lengths of teachers and students, and warnings of what looks wrong."""
        students = self.runs or (self.example,)
        warnings = _report_warnings(self.recipe, students)
        return (*self.planner.notes(self.teachers, students), *warnings)

    @property
    def recipe(self) -> Recipe:
        """What is planned."""
        return self.planner.recipe

    @property
    def num_configurations(self) -> int:
        """How many configurations there are or will be."""
        chosen = {plan.configuration for plan in self.runs}
        return len(chosen) + self.num_later // len(self.recipe.seeds)

    @property
    def num_runs(self) -> int:
        """How many runs there are or will be, teachers too."""
        return len(self.teachers) + len(self.runs) + self.num_later

    @property
    def num_failed(self) -> int:
        """How many runs failed and are left so."""
        return 0 if self.retry_failed else sum(state is RunState.FAILED for state in self.states.values())

    @property
    def joins_decided(self) -> bool:
        """Whether new configurations join a grid of which some were dropped or trained on already.

        All are judged anew then, but what was trained stays: a fresh sweep might have dropped it.
        """
        if not self.recipe.limits.drops or self.recipe.search:
            return False
        first = {plan.configuration: self.states.get(plan.key) for plan in reversed(self.runs)}
        return None in first.values() and any(state in SETTLED for state in first.values())

    @property
    def num_dropped(self) -> int:
        """How many runs are not worth training any more, by what is decided already."""
        return sum(state is RunState.PRUNED for state in self.states.values())

    @property
    def num_done(self) -> int:
        """How many runs have ended by themselves: finished, or diverged."""
        return self.num_runs - self.num_to_do - self.num_failed - self.num_dropped

    @property
    def num_to_do(self) -> int:
        """How many runs are left to train, if nothing more is dropped; a search's later ones, too."""
        return len(self.to_do) + self.num_later

    @property
    def to_do(self) -> list[RunPlan]:
        """Runs that are known already and will be trained, teachers first."""
        closed = _closed(retry_failed=self.retry_failed)
        everything = (*self.teachers, *self.runs)
        return [plan for plan in everything if self.states.get(plan.key) not in closed]

    @property
    def ahead(self) -> list[RunPlan]:
        """Runs to do, and one that stands for those a search will choose."""
        return [*self.to_do, self.example] if self.num_later else self.to_do


def plan_sweep(
    recipe: SweepPlan | Recipe | Path | str,
    workspace: Workspace,
    *,
    retry_failed: bool = False,
    replace: bool = False,
) -> SweepPlan:
    """Resolve every configuration of a recipe with every seed.

    A plan stays as it is, but for what its store says by now: runs go on while people read what is planned.

    Args:
        recipe: what to plan, or an earlier plan of it.
        workspace: where runs and data lie.
        retry_failed: runs that failed before are to be done; an earlier plan says so itself.
        replace: let the name of the recipe mean this content from now on; an earlier plan says so itself.

    Raises:
        RecipeError: everything that is wrong with the recipe, over all its configurations.
        UsageError: there is a sweep of this name with other content, and `replace` does not say to
            forget that.
    """
    if isinstance(recipe, SweepPlan):
        plan, planner = recipe, recipe.planner.in_workspace(workspace)
        return _plan(planner, plan.study, plan.example, workspace, plan.retry_failed, plan.replace)
    opened = recipe if isinstance(recipe, Recipe) else open_recipe(recipe)
    planner = Planner(opened, workspace)
    probes = planner.runs(opened.search.probes() if opened.search else opened.points)
    _require_split(opened, probes)
    require_rungs(planner, probes)
    return _plan(planner, _study_name(opened, probes), probes[0], workspace, retry_failed, replace)


def _plan(
    planner: Planner, study: str, example: RunPlan, workspace: Workspace, retry_failed: bool, replace: bool
) -> SweepPlan:
    """Return the plan as the store is now; what the planner has resolved before is not resolved again."""
    recipe, search = planner.recipe, planner.recipe.search
    chosen = _chosen_points(search, study, workspace) if search else recipe.points
    runs = planner.runs(chosen)
    num_later = max(search.trials - len(chosen), 0) * len(recipe.seeds) if search else 0
    asked = {plan.key for plan in runs}
    teachers = [plan for plan in teacher_plans((*runs, example)) if plan.key not in asked]
    leaving = lost_members(workspace, recipe, runs, example=example, replace=replace)
    states = workspace.store.states([plan.key for plan in (*teachers, *runs)])
    closed = _closed(retry_failed=retry_failed)
    ahead = [plan for plan in runs if states.get(plan.key) not in closed] + [example] * bool(num_later)
    dropped = _dropped(ahead, states) if recipe.limits.drops else set[str]()
    return SweepPlan(
        planner=planner,
        study=study,
        teachers=tuple(teachers),
        runs=runs,
        num_later=num_later,
        example=example,
        states={
            key: state for key, state in states.items() if state is not RunState.PRUNED or key in dropped
        },
        retry_failed=retry_failed,
        replace=replace,
        leaving=leaving,
    )


def _closed(*, retry_failed: bool) -> frozenset[RunState]:
    """Return the states of runs that a start leaves as they are."""
    return SETTLED if retry_failed else SETTLED | {RunState.FAILED}


def _dropped(ahead: Sequence[RunPlan], states: Mapping[str, RunState]) -> set[str]:
    """Return the runs that stay dropped: teachers of runs ahead are revived, though a sweep dropped them."""
    pruned = {key for key, state in states.items() if state is RunState.PRUNED}
    return pruned - {plan.key for plan in teacher_plans(ahead)}


def _report_warnings(recipe: Recipe, plans: Sequence[RunPlan]) -> Iterator[str]:
    """Say now what would be wrong with the table once all is trained."""
    options, numbers = recipe.tree.get("report"), recipe.tree.get("reported")
    if options or numbers:
        kinds = {(plan.data.name, plan.method.name, plan.student.name, plan.protocol): plan for plan in plans}
        trees = [plan.tree() for plan in kinds.values()]
        catalog = full_catalog()
        doubts = doubtful_numbers(numbers or (), trees, lambda name: bool(fields_called(name, catalog)))
        yield from (
            f"warning: {line}" for line in dict.fromkeys([*wrong_options(options or {}, trees), *doubts])
        )


def _chosen_points(search: Search, study: str, workspace: Workspace) -> Sequence[Point]:
    """Return what a search has chosen so far."""
    # Optuna is loaded for a search only.
    from kdctl.sweep.study import known_points, require_sampler  # noqa: PLC0415
    from kdctl.sweep.study_faults import explained_study  # noqa: PLC0415

    require_sampler(search)
    opened = functools.partial(open_to_read, workspace.store.path)
    if not workspace.store.sweeps():
        return []
    with explained_study(workspace.store.path):
        return known_points(opened, study)


def _require_split(recipe: Recipe, plans: Sequence[RunPlan]) -> None:
    """Make sure that runs hold images out for validation, if anything is to be decided by them.

    Raises:
        RecipeError: each section that decides by an accuracy that there will not be.
    """
    deciding = {"search": recipe.search, "racing": recipe.limits.racing, "pruning": recipe.limits.pruning}
    mistakes = [
        Mistake(
            problem=f"{recipe.source}: [{section}] metric = 'val', but no validation split is held out.",
            hint="set data.val_fraction = 0.1, "
            f"or {section}.metric = 'test' (which selects on the test set).",
        )
        for section, options in deciding.items()
        if options is not None and options.metric == "val"
    ]
    if mistakes and any(plan.data.options.val_fraction == 0 for plan in plans):
        raise RecipeError(mistakes)


def _study_name(recipe: Recipe, plans: Sequence[RunPlan]) -> str:
    """Name the study by recipe and by all that its values depend on.

    Optuna freezes the choices of a study and the value of a trial. So another grid, other seeds of a
    grid or another epoch number make another study, which is told at once what runs have shown
    already. More seeds of a search do not: its trials stay what the search has learned from.
    """
    search = recipe.search
    asked = [repr(recipe.seeds)] if search is None else [repr(dict(search.space)), search.metric]
    text = "/".join([*asked, *dict.fromkeys(plan.configuration for plan in plans)])
    return f"{recipe.name}@{hashlib.sha256(text.encode()).hexdigest()[:8]}"
