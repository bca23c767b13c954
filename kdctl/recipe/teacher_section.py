"""What planning must know of the world, and what a run is given: teachers, and weights to start from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import hexdigits
from typing import Annotated, Any, Protocol

from annotated_types import Ge

from kdctl.errors import KdctlError, RecipeError
from kdctl.files import WEIGHT_SUFFIXES, at_home
from kdctl.recipe.component import Spec
from kdctl.recipe.layers import CHOOSERS, NAME
from kdctl.recipe.plan import InitialWeights, RunPlan, TeacherRef
from kdctl.recipe.resolve import Resolver
from kdctl.recipe.sections import STUDENT_WEIGHTS, Catalog
from kdctl.recipe.values_in_toml import as_written
from kdctl.text import plural


class TeacherSource(Protocol):
    """Finds teachers and weights that exist already."""

    def by_run(self, key: str, model: str = "") -> TeacherRef:
        """Return the teacher that the run with this key (or prefix) trained, or another model of that run."""
        ...

    def by_checkpoint(self, path: Path) -> TeacherRef:
        """Return the teacher in a checkpoint file."""
        ...

    def weights(self, source: str, student: Spec, data: Spec) -> InitialWeights:
        """Return the weights of a run (key or prefix) or file that a student is to start from."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlanContext:
    """The plug-ins, the data and the teachers that a recipe may name, for one round of planning."""

    catalog: Catalog
    fingerprint: Callable[[Spec], str]
    """Data set -> SHA-256 of its content."""
    teachers: TeacherSource
    trained_teachers: dict[tuple[object, str], RunPlan] = field(
        default_factory=dict[tuple[object, str], RunPlan], repr=False, compare=False
    )
    """Plans of teachers by recipe, table and data: the thousand points of a grid share a few teachers."""


TRAINING = ("optimizer", "schedule", "engine")
"""Sections of the recipe that a `[teacher]` table may overlay for its own training."""


_SHORTEST_KEY = 4
"""Digits of the beginning of a run's key, as people write it; no architecture has a name of so many."""


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """A `[teacher]` table: exactly one of name, run and checkpoint."""

    name: str = ""
    """An architecture; trained first, unless that was done before."""
    run: str = ""
    """Key, or unique start of a key, of a finished run."""
    checkpoint: str = ""
    """Path of a checkpoint that kdctl wrote."""
    model: str = ""
    """Another model of that run, by name, not the one it ships: the adapted 'teacher', a peer, 'ema'."""
    other_data: bool = False
    """A run or checkpoint that was trained on other data than its student sees is meant. It knows as many
    classes, in the order of the student's; else it is refused."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the teacher's training."""
    optimizer: Any = None
    schedule: Any = None
    engine: Any = None

    def overlay(self) -> dict[str, Any]:
        """Return the sections that its training has for itself."""
        sections = {section: getattr(self, section) for section in TRAINING}
        return {section: table for section, table in sections.items() if table is not None}


@dataclass(frozen=True, kw_only=True)
class TeacherFinder:
    """Turns teachers as a recipe names them into teachers that a plan can refer to."""

    existing: TeacherSource
    plan_training: Callable[[TeacherOptions, Spec], RunPlan]
    """(architecture and overlays, data) -> how it is trained."""

    def find(self, resolver: Resolver, data: Spec | None, method: Spec | None) -> tuple[TeacherRef, ...]:
        """Return the teachers of `[teacher]`, as many as the method takes; notes mistakes."""
        tables = read_teachers(resolver)
        if method is not None:
            fewest, most = resolver.catalog["method"].get(method.name).item.num_teachers
            if most == 0:  # a method that is not taught (`ce`) may stand in a grid beside those that are
                return ()
            _check_number(resolver, method.name, len(tables), fewest, most)
        if data is None:
            return ()
        found = [self._find(resolver, data, table) for table in tables if table is not None]
        teachers = tuple(teacher for teacher in found if teacher is not None)
        _check_distinct(resolver, teachers)
        return teachers

    def _find(self, resolver: Resolver, data: Spec, table: TeacherOptions) -> TeacherRef | None:
        try:
            if table.run:
                return _meant(self.existing.by_run(table.run, table.model), table)
            if table.checkpoint:
                return _meant(
                    self.existing.by_checkpoint(Path(at_home(table.checkpoint, "teacher.checkpoint"))), table
                )
            plan = self.plan_training(table, data)
            student = plan.student
            return TeacherRef(name=student.name, run=plan.key, plan=plan, numerics=student.numerics)
        except RecipeError as error:  # of the sections it shares with the student, too: told once
            resolver.mistakes.extend(error.mistakes)
        except KdctlError as error:
            resolver.wrong("teacher", f"[teacher] {error.problem}", error.hint)
        return None


def find_weights(
    existing: TeacherSource, resolver: Resolver, student: Spec | None, data: Spec | None
) -> InitialWeights | None:
    """Return the weights that `student.weights` names; None without it, or after a mistake."""
    source = resolver.weights()
    if not source or student is None or data is None:
        return None
    try:
        return existing.weights(at_home(source, f"student.{STUDENT_WEIGHTS}"), student, data)
    except KdctlError as error:
        resolver.wrong(f"student.{STUDENT_WEIGHTS}", f"[student] {error.problem}", error.hint)
        return None


def _meant(teacher: TeacherRef, table: TeacherOptions) -> TeacherRef:
    """Note on a teacher that its being trained on other data is meant."""
    if teacher.trained_on is None or not table.other_data:
        return teacher
    return dataclasses.replace(teacher, trained_on=dataclasses.replace(teacher.trained_on, other_data=True))


def read_teachers(resolver: Resolver) -> list[TeacherOptions | None]:
    """Return the `[teacher]` table or the `[[teacher]]` tables; None stands for one with mistakes."""
    raw: Any = resolver.merged.tree.get("teacher", [])
    return [_read(resolver, table) for table in (raw if isinstance(raw, list) else [raw])]


def _read(resolver: Resolver, raw: Any) -> TeacherOptions | None:
    if not isinstance(raw, (str, Mapping)):
        problem = f"teacher = {as_written(raw)} is not a table or a name."
        resolver.wrong("teacher", problem, "write [teacher] name = '...'")
        return None
    options = resolver.record(TeacherOptions, {NAME: raw} if isinstance(raw, str) else raw, "teacher")
    if options is None:
        return None
    chosen = [key for key in CHOOSERS["teacher"] if getattr(options, key)]
    if len(chosen) != 1:
        problem = "[teacher] needs exactly one of name, run and checkpoint."
        resolver.wrong("teacher", problem, "name an architecture, a finished run, or a checkpoint file.")
        return None
    if meant := _meant_for(options.name):
        problem = f"[teacher] {NAME} = {as_written(options.name)} is no architecture."
        resolver.wrong("teacher", problem, f"write teacher = {{ {meant} = {as_written(options.name)} }}.")
        return None
    if options.name and resolver.component("model", options.name, "teacher") is None:
        return None
    if options.name and options.other_data:
        problem = f"[teacher] other_data has no effect beside '{NAME}': it is trained on the student's data."
        resolver.wrong("teacher.other_data", problem, "leave it out, or give run = '...' instead.")
        return None
    if options.model and not options.run:
        problem = f"[teacher] model has no effect beside '{chosen[0]}': it names a model of a run."
        resolver.wrong("teacher.model", problem, "leave it out, or give run = '...' instead.")
        return None
    idle = [key for key in ("seed", *TRAINING) if not options.name and key in raw]
    if idle:
        problem = f"[teacher] {', '.join(idle)} has no effect beside '{chosen[0]}': it is trained already."
        resolver.wrong(f"teacher.{idle[0]}", problem, f"leave it out, or give {NAME} = '...' instead.")
        return None
    return options


def _meant_for(name: str) -> str:
    """Return for which other line of `[teacher]` a name was meant, by how files and runs are called."""
    if os.sep in name or name.lower().endswith(WEIGHT_SUFFIXES):
        return "checkpoint"
    return "run" if is_like_key(name) else ""


def is_like_key(word: str) -> bool:
    """Return whether a word that is no architecture's name can begin the key of a run."""
    return len(word) >= _SHORTEST_KEY and set(word.lower()) <= set(hexdigits)


def _check_number(resolver: Resolver, method: str, number: int, fewest: int, most: int | None) -> None:
    if takes((fewest, most), number):
        return
    wants = "" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
    wanted = f"{wants} teachers" if wants else plural(fewest, "teacher")
    problem = f"method '{method}' wants {wanted}, the recipe names {number}."
    resolver.wrong("teacher", problem, _hint_on_number(resolver, number, fewest))


def _hint_on_number(resolver: Resolver, number: int, fewest: int) -> str:
    """Say how a recipe gets as many teachers as its method takes, or a method for its teachers."""
    if number > fewest:
        taking = ", ".join(
            entry.name
            for entry in resolver.catalog["method"].entries()
            if takes(entry.item.num_teachers, number)
        )
        return f"choose a method that takes {number}: {taking}." if taking else "name fewer teachers."
    if fewest > 1:
        return "repeat --teacher, or write teacher = ['...', '...']; equal architectures need other seeds."
    return "name one with [teacher] name = '...' or --teacher, or choose method 'ce' to train without."


def takes(bounds: tuple[int, int | None], number: int) -> bool:
    """Return whether a method with such a `num_teachers` takes `number` of them."""
    fewest, most = bounds
    return fewest <= number and (most is None or number <= most)


def _check_distinct(resolver: Resolver, teachers: Sequence[TeacherRef]) -> None:
    """Note teachers with the same weights: they say the same, and cost twice as much."""
    seen: dict[tuple[str, str, str], TeacherRef] = {}
    for teacher in teachers:
        weights = (teacher.run, teacher.checkpoint_sha256, teacher.model.part if teacher.model else "")
        if weights in seen:
            problem = f"[teacher] names '{teacher.name}' twice with the same weights."
            hint = "give each a seed of its own: teacher = [{ name = '...' }, { name = '...', seed = 1 }]."
            resolver.wrong("teacher", problem, hint)
            return
        seen[weights] = teacher
