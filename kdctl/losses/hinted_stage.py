"""One stage of a student, held against a stage of each of several teachers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.stages import at_one_size, pair_stages, projector_between, require_stage
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Distiller, Setup, Step
from kdctl.protocols.maps import shared_size
from kdctl.recipe.component import Spec
from kdctl.text import plural


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A teacher's map, of the deepest stage that pairs with the student's, and what leads to its width."""

    tap: str
    """Name under which the teacher gives its map, at the size of the smaller of the two."""
    connector: nn.Module


class HintedByTeachers(Distiller):
    """Reads one stage of the student and the partner of it that each teacher has; makes the connectors.

    Its `config` has `stage` (a number, from 1) and `projector`.
    """

    def __init__(self, config: Any, setup: Setup) -> None:
        """Build a connector for each teacher."""
        super().__init__(config, setup)
        self.stage = stage_of(setup.student, config.stage)
        self.hints = tuple(_hint(setup, teacher, self.stage, config.projector) for teacher in setup.teachers)
        self.projectors = nn.ModuleList(hint.connector for hint in self.hints)
        self.student_taps = (self.stage,)
        self.teacher_taps = tuple((hint.tap,) for hint in self.hints)

    def hint_distances(self, step: Step) -> list[Tensor]:
        """Return the mean squared distance of the student's map from each teacher's hint, 0-dim each."""
        features = step.student.taps[self.stage]
        distances: list[Tensor] = []
        for hint, teacher in zip(self.hints, step.teachers, strict=True):
            own, other = at_one_size(features, teacher.taps[hint.tap])
            distances.append(functional.mse_loss(hint.connector(own).float(), other.float()))
        return distances


def stage_of(student: Backbone, number: int) -> str:
    """Return the tap of the student's stage of that number, from 1.

    Raises:
        KdctlError: it has fewer.
    """
    stages = student.stage_taps
    require_stage(number, len(stages), f"the student has {plural(len(stages), 'stage')}")
    return stages[number - 1]


def _hint(setup: Setup, teacher: Backbone, stage: str, projector: Spec) -> Hint:
    *_, partner = (other for own, other in pair_stages(setup.student, teacher) if own == stage)
    source, target = setup.student.map_shape(stage), teacher.map_shape(partner)
    connector = projector_between(setup, projector, source, target)
    return Hint(tap=teacher.tap_at(partner, shared_size(source, target)), connector=connector)
