"""Which runs may train in lockstep."""

from __future__ import annotations

from collections.abc import Iterable

from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.plan import RunPlan
from kdctl.serialization import canonical_json

DEFAULT_GANG_SIZE = 8
"""Members of a gang at the most; the gain from sharing a teacher is flat beyond 8 to 16."""


def form_gangs(plans: Iterable[RunPlan], size: int = DEFAULT_GANG_SIZE) -> list[list[RunPlan]]:
    """Group runs that can share every batch and every teacher's outputs, in order of appearance.

    Runs of a gang have the same data, seed, teachers, length and arithmetic. Method, projector, optimizer and
    even the student may differ. Runs whose methods make their own images form gangs among themselves, each of
    runs with the same number and size of steps.
    """
    groups: dict[tuple[object, ...], list[RunPlan]] = {}
    for plan in plans:
        data = canonical_json(plan.data.content())
        steps = _steps_of_its_own(plan)
        shared = (data, plan.data_fingerprint, plan.seed, plan.teachers, plan.epochs, plan.engine, steps)
        groups.setdefault(shared, []).append(plan)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def _steps_of_its_own(plan: RunPlan) -> tuple[int, int] | None:
    """Return steps per epoch and their size for a method that makes its images; None: the data say."""
    options = plan.method.options
    if not isinstance(options, GeneratedImages):
        return None
    return options.steps_per_epoch, options.batch_size
