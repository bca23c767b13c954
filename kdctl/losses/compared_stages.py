"""Methods that hold the maps of all stages of a student against those of its teacher."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdctl.losses.stages import pair_maps, paired_maps
from kdctl.protocols.distiller import Distiller, Match, Setup, Step


class ComparesStages(Distiller):
    """Pairs all stages by relative depth and reads their maps; a subclass says how they are compared."""

    def __init__(self, config: Any, setup: Setup) -> None:
        """Read the maps of both models, and the teacher's predictions if they have a weight."""
        super().__init__(config, setup)
        self.pairs = pair_maps(setup.student, setup.teacher, config.maps)
        self.student_taps = tuple(own for own, _ in self.pairs)
        self.teacher_taps = (tuple(other for _, other in self.pairs),)
        self.reads_teacher_logits = config.kd_weight > 0

    def matches(self) -> tuple[Match, ...]:
        """Return the pairs of stages; all count alike."""
        return tuple(Match(student=own, teacher=other, weight=1.0) for own, other in self.pairs)

    def compared(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """Return the maps of each pair (student's, teacher's), at one size within a pair."""
        return paired_maps(step, self.pairs)
