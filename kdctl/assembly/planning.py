"""From a recipe to its plans, in the light of what a workspace has."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence

from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import DataLibrary
from kdctl.assembly.plan_notes import plan_notes
from kdctl.assembly.structure import Structure, Structures
from kdctl.assembly.teachers import TeacherLibrary, require_classes
from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, Mistake, RecipeError
from kdctl.protocols.dataset import DatasetOptions
from kdctl.readers.selection import Counts
from kdctl.recipe.component import Spec, places_of
from kdctl.recipe.layers import NAME
from kdctl.recipe.plan import RunPlan, TrainedOn
from kdctl.recipe.recipe import Recipe
from kdctl.recipe.space import Point
from kdctl.recipe.teacher_section import PlanContext

NO_POINT = Point(values={})
"""The one configuration of a recipe without a grid."""


class Planner:
    """Resolves the configurations of one recipe, each once."""

    def __init__(self, recipe: Recipe, workspace: Workspace) -> None:
        """Name plug-ins, data and teachers as the workspace has them."""
        self.recipe = recipe
        self._teachers = TeacherLibrary(workspace)
        self._context = PlanContext(
            catalog=full_catalog(),
            fingerprint=workspace.library.fingerprint,
            teachers=self._teachers,
        )
        self._library = workspace.library
        self.structures = Structures(workspace.library)
        self._known: dict[str, tuple[RunPlan, ...]] = {}
        self._trained = frozenset(workspace.store.history_hashes())
        """Keys of runs that have ended: their parts fit together, and need not be built to find that out."""

    def in_workspace(self, workspace: Workspace) -> Planner:
        """Return a planner that knows what this one does, and looks for teachers in another workspace.

        Another one of the same runs and data: that in which plans were shown is closed when they are trained.
        """
        if workspace.library is not self._library:
            return Planner(self.recipe, workspace)
        planner = copy.copy(self)
        planner._teachers = TeacherLibrary(workspace)
        planner._context = dataclasses.replace(self._context, teachers=planner._teachers)
        return planner

    def replicates(self, point: Point) -> tuple[RunPlan, ...]:
        """Return the runs of one configuration, one for each seed.

        Raises:
            RecipeError: everything that is wrong with it.
        """
        name = repr(sorted(point.values.items()))
        if name not in self._known:
            plan = self.recipe.plan(point, self.recipe.seeds[0], self._context)
            with self._mistakes_in(None):
                require_same_data(plan, self._library)
                self._require_same_classes(plan)
            if plan.key not in self._trained:
                self.structure(plan)
            for teacher in plan.teachers:
                if teacher.plan and teacher.plan.key not in self._trained:
                    self.structure(teacher.plan, inside="teacher.")
            seeds = self.recipe.seeds if plan.teachers else self.recipe.baseline_seeds
            self._known[name] = (plan, *(plan.with_seed(seed) for seed in seeds[1:]))
        return self._known[name]

    def _require_same_classes(self, plan: RunPlan) -> None:
        """Refuse teachers of other data, where those are meant, if they know fewer or more classes.

        Raises:
            KdctlError: a teacher of another number of classes, or one whose weights cannot be read.
        """
        for teacher in plan.teachers:
            if teacher.trained_on and teacher.trained_on.other_data:
                wanted = self.counts(plan).num_classes
                require_classes(teacher, self._teachers.num_classes(teacher, wanted), wanted)

    def structure(self, plan: RunPlan, *, inside: str = "") -> Structure:
        """Return how a run is built.

        Args:
            plan: of the run.
            inside: where its options stand in the recipe, as `teacher.`.

        Raises:
            RecipeError: models, projector and method do not fit together, or the code of one fails.
        """
        with self._mistakes_in(None):
            counts = self.counts(plan)
        with self._mistakes_in(plan, inside):
            return self.structures.of(plan, counts)

    def counts(self, plan: RunPlan) -> Counts:
        """Return how many images a run sees.

        Raises:
            KdctlError: its data are missing or corrupt, or smaller than the options ask for.
        """
        return self.structures.counts(plan.data)

    def runs(self, points: Iterable[Point]) -> tuple[RunPlan, ...]:
        """Return all runs, each once, seed-outermost: all configurations with the first seed come first.

        Raises:
            RecipeError: everything that is wrong with any configuration.
        """
        mistakes: list[Mistake] = []
        configurations: list[tuple[RunPlan, ...]] = []
        for point in points:
            try:
                configurations.append(self.replicates(point))
            except RecipeError as error:
                mistakes.extend(error.mistakes)
        if mistakes:
            raise RecipeError(mistakes)
        by_seed = [plan for plans in itertools.zip_longest(*configurations) for plan in plans if plan]
        return tuple({plan.key: plan for plan in by_seed}.values())

    def notes(self, teachers: Sequence[RunPlan], students: Sequence[RunPlan]) -> tuple[str, ...]:
        """Return what to know of plans before they are trained: see `plan_notes`."""
        return plan_notes(self.recipe, teachers, students, self.structures.counts)

    @contextlib.contextmanager
    def _mistakes_in(self, plan: RunPlan | None, inside: str = "") -> Generator[None]:
        """Turn what does not fit into mistakes of the recipe; of a plan they name models and method."""

        def placed(text: str) -> str:
            return text.replace("engine.", f"{inside}engine.")

        try:
            yield
        except KdctlError as error:
            what = f"{plan.pair()} · {plan.method.name}: " if plan else ""
            where = f"{self.recipe.source}: {what}"
            raise RecipeError(
                [
                    Mistake(problem=where + placed(mistake.problem), hint=placed(mistake.hint))
                    for mistake in error.mistakes
                ]
            ) from error


def _other_options(trained_on: TrainedOn, data: Spec) -> str:
    """Word which options of a data set itself a teacher was trained with, where a student has others."""
    of_any_data = {item.name for item in dataclasses.fields(DatasetOptions)}
    passed_over = {NAME, *of_any_data, *places_of(data.options)}
    told = [
        f"{name} = {trained_on.data[name]}, not {own}"
        for name, own in data.tree().items()
        if name not in passed_over and trained_on.data.get(name, own) != own
    ]
    return f" ({'; '.join(told)})" if told else ""


def require_same_data(plan: RunPlan, library: DataLibrary) -> None:
    """Refuse teachers that were trained before on other data than the student sees, unless that is meant.

    Raises:
        RecipeError: teachers of other images, other classes or another order of them; all of them.
    """
    mistakes = [
        Mistake(problem=f"the teacher {teacher.name} ({teacher.where}) was trained on {what}.", hint=hint)
        for teacher in plan.teachers
        if teacher.trained_on and not teacher.trained_on.other_data
        for what, hint in _other_data(teacher.trained_on, plan, library)
    ]
    if mistakes:
        raise RecipeError(mistakes)


def _other_data(trained_on: TrainedOn, plan: RunPlan, library: DataLibrary) -> Iterator[tuple[str, str]]:
    """Yield what a teacher was trained on, if it is not what the student sees, and what can be done.

    Fewer images of the same classes are no other data.
    """
    theirs, ours = trained_on.data[NAME], plan.data.name
    if trained_on.fingerprint != plan.data_fingerprint:
        same = f"other images or labels of '{ours}'{_other_options(trained_on, plan.data)}"
        what = f"'{theirs}', not '{ours}'" if theirs != ours else same
        instead = f", or train on the teacher's: -o data={theirs}" if theirs != ours else ""
        yield (
            what,
            f"teach with a run on these data{instead}; if the classes are the same, and that is meant: "
            "teacher.other_data = true (on the command line: -o teacher.other_data=true).",
        )
        return
    numbers = trained_on.data.get("num_classes"), plan.data.options.num_classes
    if numbers[0] == numbers[1]:
        return
    everything = dataclasses.replace(plan.data.options, num_classes=None)
    known = library.counts(dataclasses.replace(plan.data, options=everything)).num_classes
    own, other = (number or known for number in numbers)
    if own != other:
        what = f"{own} classes of '{ours}', the student sees {other}"
        yield what, "name a teacher of the same classes, or change data.num_classes."
