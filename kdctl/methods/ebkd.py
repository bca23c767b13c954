"""EBKD: let surer teachers count more, sample by sample."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kdctl.losses.several_teachers import (
    SEVERAL,
    SeveralTeachers,
    divergences,
    each_weight,
    log_probabilities,
)
from kdctl.losses.supervision import task_term
from kdctl.protocols.distiller import Distiller, Losses, Step, methods


@methods.register("ebkd", label="EBKD")
class EntropyBasedDistillation(Distiller):
    """Cross-entropy plus divergences from several teachers, less where a teacher is in doubt.

    Kwon et al., "Adaptive Knowledge Distillation Based on Entropy", ICASSP 2020, as CA-MKD's code has it:
    L = ce_weight * CE(z_s, y) + kd_weight * 1/(B * T') * sum_{b,k} w_bk * T^2 * KL(p_k || p_s)_b,
    w_bk = 1 - H_bk / sum_j H_bj,  H_bk the entropy of teacher k's prediction at temperature 1.

    Weights sum to T' - 1 over the T' teachers, so the term is a little smaller than a mean. Entropies come
    from log-probabilities: a teacher that is sure beyond the precision of fp32 has entropy 0, not NaN. Where
    none is in doubt, all count alike.
    """

    Config: ClassVar[type] = SeveralTeachers
    num_teachers: ClassVar[tuple[int, int | None]] = SEVERAL
    config: SeveralTeachers

    def losses(self, step: Step) -> Losses:
        """Return the weighted cross-entropy and divergences."""
        weights = _confidences(log_probabilities(step))
        divergence = (weights * divergences(step, self.config.temperature)).mean()
        return Losses(
            task=task_term(self.config, step),
            transfer={"kd": self.config.kd_weight * divergence},
            logits=step.student.require_logits(),
            metrics=each_weight(weights.mean(dim=1)),
        )


def _confidences(predictions: Tensor) -> Tensor:
    """Return the weights [T, B] of teachers with log-probabilities [T, B, K]."""
    entropies = -(predictions.exp() * predictions).sum(dim=2)
    total = entropies.sum(dim=0)
    doubtful = total > 0
    shares = (entropies / total.where(doubtful, 1.0)).where(doubtful, 1 / len(predictions))
    return 1 - shares
