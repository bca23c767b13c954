"""PKT: match the probabilities with which samples choose each other as neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor

from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import dot_products, pooled_vectors, unit_vectors
from kdctl.protocols.backbone import POOLED
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import tunable

_IMPROBABLE = 1e-7
"""Added to probabilities inside the logarithm: that of opposite vectors is 0. From the authors' code."""


@dataclass(frozen=True, kw_only=True)
class ProbabilisticTransferConfig(Supervision):
    """Weight of the divergence between neighbourhoods."""

    pkt_weight: Annotated[float, Gt(0)] = tunable(30000.0, 300.0, 300000.0, log=True)
    """30000 in the code of protocol `crd`, for the mean over all B^2 pairs of a batch of 64."""


def neighbour_probabilities(features: Tensor) -> Tensor:
    """Return with which probability [B, B] each sample (row) chooses each (column) as its neighbour.

    The cosine of their vectors [B, D], scaled from [-1, 1] to [0, 1], divided by the row's sum.
    """
    directions = unit_vectors(features)
    affinities = (dot_products(directions, directions) + 1.0) / 2.0
    return affinities / affinities.sum(dim=1, keepdim=True)


def neighbourhood_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return mean_ij p_ij log(p_ij / q_ij): p from teacher's vectors [B, D_t], q from student's [B, D_s]."""
    theirs, ours = neighbour_probabilities(teacher), neighbour_probabilities(student)
    return (theirs * ((theirs + _IMPROBABLE) / (ours + _IMPROBABLE)).log()).mean()


@methods.register("pkt", label="PKT")
class ProbabilisticKnowledgeTransfer(Distiller):
    """Cross-entropy and divergence, plus the divergence between neighbourhoods in the batch.

    Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
    arXiv:1803.10837, with the cosine kernel:
    L = ce_weight * CE + kd_weight * KL + pkt_weight / B^2 * sum_ij p_ij log(p_ij / q_ij),
    where p_ij = K(t_i, t_j) / sum_k K(t_i, t_k) for the teacher's pooled vectors t, q likewise for the
    student's, and K(a, b) = (cos(a, b) + 1) / 2.

    As in the authors' code and its weight, a sample is its own neighbour too (the paper leaves it
    out), and the sum is divided by B^2: a row's divergence hardly depends on B, so the weight
    belongs to a batch size. Only samples are compared: vectors may differ in width.
    """

    Config: ClassVar[type] = ProbabilisticTransferConfig
    config: ProbabilisticTransferConfig

    def __init__(self, config: ProbabilisticTransferConfig, setup: Setup) -> None:
        """Nothing is trained besides the student."""
        super().__init__(config, setup)
        self.student_taps = (POOLED,)
        self.teacher_taps = ((POOLED,),)
        self.reads_teacher_logits = config.kd_weight > 0

    def losses(self, step: Step) -> Losses:
        """Return the divergence between neighbourhoods beside the predictions' terms."""
        divergence = neighbourhood_divergence(*pooled_vectors(step))
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "pkt": self.config.pkt_weight * divergence},
            logits=step.student.require_logits(),
        )
