"""One stage of a student, and the stage of each of several teachers that it is held against."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.losses.alignment import at_one_size
from kdctl.losses.stages import pair_stages
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Setup, Step
from kdctl.protocols.maps import shared_size
from kdctl.recipe.component import Spec


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A teacher's map, and what brings the student's map to its width."""

    tap: str
    """Name under which the teacher gives its map, at the size of the smaller of the two."""
    connector: nn.Module


def stage_of(student: Backbone, number: int) -> str:
    """Return the tap of the student's stage of that number, from 1.

    Raises:
        KdctlError: it has fewer.
    """
    stages = student.stage_taps
    if number > len(stages):
        raise KdctlError(
            f"[method] stage = {number}: the student has {len(stages)} stages.",
            f"set method.stage to a number from 1 to {len(stages)}.",
        )
    return stages[number - 1]


def hints_of(setup: Setup, stage: str, projector: Spec) -> tuple[Hint, ...]:
    """Return each teacher's hint for the student's `stage`: the deepest of its stages that pair with it."""
    return tuple(_hint(setup, teacher, stage, projector) for teacher in setup.teachers)


def hint_distances(step: Step, stage: str, hints: tuple[Hint, ...]) -> list[Tensor]:
    """Return the mean squared distance of the student's map from each teacher's hint, 0-dim each."""
    features = step.student.taps[stage]
    distances: list[Tensor] = []
    for hint, teacher in zip(hints, step.teachers, strict=True):
        own, other = at_one_size(features, teacher.taps[hint.tap])
        distances.append(functional.mse_loss(hint.connector(own).float(), other.float()))
    return distances


def _hint(setup: Setup, teacher: Backbone, stage: str, projector: Spec) -> Hint:
    *_, partner = (other for own, other in pair_stages(setup.student, teacher) if own == stage)
    source, target = setup.student.map_shape(stage), teacher.map_shape(partner)
    size = shared_size(source, target)
    connector = setup.make_projector(projector, (source[0], *size), (target[0], *size))
    return Hint(tap=teacher.tap_at(partner, size), connector=connector)
