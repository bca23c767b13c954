"""Methods that learn features alone first, and drop that term when the predictions' turn comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.protocols.distiller import Distiller, Losses, Phase, Setup, Step


@dataclass(frozen=True, kw_only=True)
class InitialisedByFeatures(Supervision):
    """How long the features are learned, and what follows; a method's `Config` adds its own to these."""

    kd_weight: Annotated[float, Ge(0)] = 0.0
    """Of T^2 * KL(teacher || student) in the second phase; the code of protocol `crd` does without."""
    init_share: Annotated[float, Ge(0), Lt(1)] = 1 / 9
    """Share of the epochs spent on the features alone. The code of protocol `crd` puts 30 epochs before its
    240; here they are part of the schedule. 0: the term stands beside the others in all epochs."""


class FeaturesFirst(Distiller):
    """Trains the student up to its last compared tap on features, then all of it on its predictions.

    A subclass calls `compare` at the end of its `__init__`, and writes `first_share` and `features`.
    """

    phase_names: ClassVar[tuple[str, str]] = ("features", "prediction")

    def __init__(self, config: Supervision, setup: Setup) -> None:
        """Compare nothing yet."""
        super().__init__(config, setup)
        self._compared: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def first_share(self) -> float:
        """Return the first phase's share of the epochs; 0: all terms are trained together."""
        raise TypeError(f"{type(self).__name__} must define first_share()")

    def features(self, step: Step) -> dict[str, Tensor]:
        """Return the weighted terms about features by name, 0-dim each."""
        raise TypeError(f"{type(self).__name__} must define features()")

    def connectors(self) -> dict[str, nn.Module]:
        """Return the modules that only the terms about features train."""
        return {}

    def compare(self, student_taps: tuple[str, ...], teacher_taps: tuple[str, ...]) -> None:
        """Say which taps of student and teacher `features` reads."""
        self._compared = (student_taps, teacher_taps)
        self.arrange()

    def phases(self) -> tuple[Phase, ...]:
        """Return a phase for the features and one for the predictions; or one for both."""
        share = self.first_share()
        if share == 0:
            return super().phases()
        first, second = self.phase_names
        return (Phase(name=first, share=share), Phase(name=second, share=1 - share))

    def arrange(self) -> None:
        """Read the compared taps in the first phase, the predictions in the second."""
        student, teacher = self._compared if self.compares else ((), ())
        self.student_taps, self.teacher_taps = student, (teacher,)
        self.reads_student_logits = self.predicts
        self.reads_teacher_logits = self.predicts and self.config.kd_weight > 0

    def losses(self, step: Step) -> Losses:
        """Return the terms about features and those about predictions, or one of the two kinds."""
        features = self.features(step) if self.compares else {}
        if not self.predicts:
            return Losses(task=None, transfer=features, logits=self._finish(step))
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), **features},
            logits=step.student.require_logits(),
        )

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Return what follows the last compared tap in the first phase, the connectors in the second."""
        return super().frozen_modules() if self.compares else self.connectors()

    @property
    def compares(self) -> bool:
        """Whether the running phase learns features."""
        return self.phase.name != self.phase_names[1]

    @property
    def predicts(self) -> bool:
        """Whether the running phase learns predictions."""
        return self.phase.name != self.phase_names[0]

    @torch.no_grad()
    def _finish(self, step: Step) -> Tensor:
        """Return what the student's untrained rest makes of the deepest compared map: logits [B, K]."""
        order = list(self.student.tap_shapes)
        deepest = max(self.student_taps, key=order.index)
        return self.student.tail(deepest)(step.student.taps[deepest])
