"""AVER: learn from the mean of several teachers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdctl.losses.several_teachers import SEVERAL, SeveralTeachers, divergences, log_probabilities
from kdctl.losses.supervision import task_term
from kdctl.protocols.distiller import Distiller, Losses, Step, methods


@dataclass(frozen=True, kw_only=True)
class AveragedTeachersConfig(SeveralTeachers):
    """What is averaged."""

    mean_of: Literal["divergences", "probabilities"] = "divergences"
    """'divergences': the mean of the divergences from all teachers, as in the code of AE-KD and CA-MKD.
    'probabilities': the divergence from the mean of their softened predictions."""


@methods.register("aver", label="AVER")
class AveragedTeachers(Distiller):
    """Cross-entropy plus the mean of the divergences from several teachers.

    You et al., "Learning from Multiple Teacher Networks", KDD 2017, without its triplets; AVER, or AVEG, in
    the papers that compare with it:
    L = ce_weight * CE(z_s, y) + kd_weight * 1/T' * sum_k T^2 * KL(p_k || p_s), over T' teachers.

    The divergence from the mean of the teachers' probabilities is the same but for a number that does not
    depend on the student (how much the teachers differ): equal gradients, another value. The mean of
    their logits would be something else.
    """

    Config: ClassVar[type] = AveragedTeachersConfig
    num_teachers: ClassVar[tuple[int, int | None]] = SEVERAL
    config: AveragedTeachersConfig

    def losses(self, step: Step) -> Losses:
        """Return the weighted cross-entropy and divergence."""
        temperature = self.config.temperature
        divergence = (
            divergences(step, temperature).mean()
            if self.config.mean_of == "divergences"
            else _from_mean(step, temperature)
        )
        return Losses(
            task=task_term(self.config, step),
            transfer={"kd": self.config.kd_weight * divergence},
            logits=step.student.require_logits(),
        )


def _from_mean(step: Step, temperature: float) -> Tensor:
    """Return T^2 * KL(mean of the teachers || student), mean over the batch."""
    student = functional.log_softmax(step.student.require_logits().float() / temperature, dim=1)
    mean = torch.logsumexp(log_probabilities(step, temperature), dim=0) - math.log(len(step.teachers))
    return functional.kl_div(student, mean, reduction="batchmean", log_target=True) * temperature**2
