"""Cross-entropy alone: how teachers and no-teacher baselines are trained."""

from __future__ import annotations

from kdctl.losses.supervision import label_loss
from kdctl.protocols.distiller import Distiller, Losses, Step, methods


@methods.register("ce", label="Student alone")
class CrossEntropy(Distiller):
    """Trains the student on the labels, without a teacher."""

    num_teachers = (0, 0)

    def losses(self, step: Step) -> Losses:
        """Return the mean cross-entropy of the batch."""
        logits = step.student.require_logits()
        return Losses(task=label_loss(logits, step.batch), logits=logits)
