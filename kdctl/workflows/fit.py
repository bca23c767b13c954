"""Whether models, teachers and data fit together, found before any of them is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from kdctl.errors import KdctlError, Mistake, RecipeError
from kdctl.protocols.backbone import models
from kdctl.readers.selection import SelectedData
from kdctl.recipe.plan import RunPlan, TeacherRef
from kdctl.records import canonical_json
from kdctl.workflows.bench import Bench
from kdctl.workflows.data import Sizes, sizes_of
from kdctl.workflows.teachers import load_teacher


def require_fit(plans: Iterable[RunPlan], bench: Bench) -> None:
    """Build every model for its data, without weights, and load every teacher that exists already.

    Raises:
        RecipeError: models that do not take images of the data's size, teachers that know other classes,
            weights of another model or head; all of them.
    """
    checks: dict[object, Callable[[], None]] = {}
    selected: dict[str, SelectedData] = {}
    for plan in plans:
        source = canonical_json(plan.data.tree())
        if source not in selected:
            selected[source] = bench.library.select(plan.data)
        data = selected[source]
        name, sizes = plan.student.name, sizes_of(data)
        checks.setdefault((name, sizes), lambda name=name, sizes=sizes: _require_size(name, sizes))
        for teacher in plan.teachers:
            if teacher.plan is None:  # else it is trained first, on these data
                known = (teacher, source)
                checks.setdefault(
                    known, lambda teacher=teacher, data=data: _require_teacher(teacher, data, bench)
                )
    mistakes = [mistake for check in checks.values() for mistake in _mistakes(check)]
    if mistakes:
        raise RecipeError(mistakes)


def _mistakes(check: Callable[[], None]) -> tuple[Mistake, ...]:
    try:
        check()
    except KdctlError as error:
        return error.mistakes
    return ()


def _require_size(name: str, sizes: Sizes) -> None:
    with torch.device("meta"):
        models.get(name).item(*sizes)


def _require_teacher(teacher: TeacherRef, data: SelectedData, bench: Bench) -> None:
    backbone = load_teacher(teacher, data, bench).backbone
    if backbone.num_classes != data.num_classes:
        where = f"run {teacher.run}" if teacher.run else teacher.checkpoint
        raise KdctlError(
            f"the teacher {teacher.name} ({where}) tells {backbone.num_classes} classes apart, "
            f"the data have {data.num_classes}.",
            "name a teacher of the same classes, or change data.num_classes.",
        )
