"""AEKD: weigh several teachers so that their gradients agree as far as they can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kdctl.losses.several_teachers import (
    FEW,
    GradientAgreement,
    agreeing_weights,
    divergences,
    each_weight,
    logit_gradients,
    weights_of_directions,
)
from kdctl.losses.supervision import task_term
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods


@dataclass(frozen=True, kw_only=True)
class AdaptiveEnsembleConfig(GradientAgreement):
    """How gradients are weighed."""

    normalise: bool = False
    """Divide each teacher's gradient by its length before, and its weight after. A flag of the authors'
    code, off by default."""


@methods.register("aekd", label="AEKD")
class AdaptiveEnsemble(Distiller):
    """Cross-entropy plus divergences from several teachers, weighed in the space of gradients.

    Du et al., "Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space", NeurIPS 2020:
    L = ce_weight * CE(z_s, y) + kd_weight * sum_k a_k * T^2 * KL(p_k || p_s), with
    a = argmin | sum_k a_k g_k |^2 over sum a = 1, 0 <= a_k <= max_weight,
    g_k the gradient of the k-th divergence with respect to the student's logits, mean over the batch.

    That gradient is T * (p_s - p_k): no backward pass is needed, where the authors' code makes one through
    the student for each teacher. They solve for a with a support vector machine on the CPU; we solve the
    same problem exactly on the device. Weights are constants to the gradient. In their code the ensemble
    begins at once for the predictions; so it does here.
    """

    Config: ClassVar[type] = AdaptiveEnsembleConfig
    num_teachers: ClassVar[tuple[int, int | None]] = FEW
    config: AdaptiveEnsembleConfig

    def __init__(self, config: AdaptiveEnsembleConfig, setup: Setup) -> None:
        """Prepare to weigh so many teachers."""
        super().__init__(config, setup)
        self.find_weights = agreeing_weights(len(setup.teachers), config.max_weight)

    def losses(self, step: Step) -> Losses:
        """Return the weighted cross-entropy and divergences."""
        weights = self._weights(step)
        each = divergences(step, self.config.temperature).mean(dim=1)
        return Losses(
            task=task_term(self.config, step),
            transfer={"kd": self.config.kd_weight * (weights * each).sum()},
            logits=step.student.require_logits(),
            metrics=each_weight(weights),
        )

    def _weights(self, step: Step) -> Tensor:
        """Return the teachers' weights [T]."""
        gradients = logit_gradients(step, self.config.temperature)
        return (
            weights_of_directions(self.find_weights, gradients)
            if self.config.normalise
            else self.find_weights(gradients)
        )
