"""Whether the teachers that exist already fit the data, found before any student is trained."""

from __future__ import annotations

from collections.abc import Iterable

from kdctl.assembly.run_context import RunContext
from kdctl.assembly.teachers import load_teacher
from kdctl.errors import KdctlError, Mistake, RecipeError
from kdctl.readers.selection import SelectedData
from kdctl.recipe.plan import RunPlan, TeacherRef
from kdctl.serialization import canonical_json


def require_teachers(plans: Iterable[RunPlan], context: RunContext) -> None:
    """Load every teacher that was trained before, once for each selection of data.

    Raises:
        RecipeError: teachers that know other classes, weights of another model or head; all of them.
    """
    selected: dict[str, SelectedData] = {}
    mistakes: dict[tuple[TeacherRef, str], tuple[Mistake, ...]] = {}
    for plan in plans:
        source = canonical_json(plan.data.tree())
        if source not in selected:
            selected[source] = context.library.select(plan.data)
        for teacher in plan.teachers:
            # One that is given by its plan is trained first, on these data.
            if teacher.plan is None and (teacher, source) not in mistakes:
                mistakes[teacher, source] = _mistakes(teacher, selected[source], context)
    if found := [mistake for those in mistakes.values() for mistake in those]:
        raise RecipeError(found)


def _mistakes(teacher: TeacherRef, data: SelectedData, context: RunContext) -> tuple[Mistake, ...]:
    try:
        _require_teacher(teacher, data, context)
    except KdctlError as error:
        return error.mistakes
    return ()


def _require_teacher(teacher: TeacherRef, data: SelectedData, context: RunContext) -> None:
    backbone = load_teacher(teacher, data, context).backbone
    if backbone.num_classes != data.num_classes:
        where = f"run {teacher.run}" if teacher.run else teacher.checkpoint
        raise KdctlError(
            f"the teacher {teacher.name} ({where}) tells {backbone.num_classes} classes apart, "
            f"the data have {data.num_classes}.",
            "name a teacher of the same classes, or change data.num_classes.",
        )
