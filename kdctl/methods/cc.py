"""CC: match how the samples of a batch are related in an embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import dot_products, pooled_vectors, unit_vectors
from kdctl.protocols.backbone import POOLED
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class CorrelationCongruenceConfig(Supervision):
    """Form, weight, embedding and kernel."""

    form: Literal["embedding", "kernel"] = "embedding"
    """'embedding': what the code of protocol `crd`, and so most tables, call CC. 'kernel': the paper's."""
    cc_weight: Annotated[float, Gt(0)] = tunable(0.02, 0.001, 1000.0, log=True)
    """0.02 in the code of protocol `crd`. The form 'kernel' is hardly felt below 10: it lies in [0, 1]."""
    embedding_width: Annotated[int, Ge(1), Le(65_536)] = 128
    """To which student's and teacher's vectors are brought by a linear layer each. 128 in both forms."""
    gamma: Annotated[float, Gt(0)] = 0.4
    """Of the kernel exp(-gamma * |a - b|^2). 0.4 in the paper."""
    order: Annotated[int, Ge(1), Le(64)] = 2
    """P: last power in the kernel's Taylor series. 2 in the paper."""


def gaussian_correlations(embeddings: Tensor, gamma: float, order: int) -> Tensor:
    """Return the kernel exp(-gamma * |a - b|^2) of all pairs [B, B], for directions of vectors [B, D].

    As a Taylor series in the cosine: exp(-2 gamma) * sum_p (2 gamma cos)^p / p!, up to p = `order`.
    """
    directions = unit_vectors(embeddings)
    exponents = 2 * gamma * dot_products(directions, directions)
    powers = [exponents**power / math.factorial(power) for power in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(powers).sum(dim=0)


def neighbouring_differences(student: Tensor, teacher: Tensor) -> Tensor:
    """Return mean_i <D_i, D_(i+1)> with D = |student - teacher|, for embeddings [B, D] each.

    It is 0 where of two samples that stand beside each other in the batch one is matched.
    """
    apart = (student.float() - teacher.float()).abs()
    return (apart[:-1] * apart[1:]).sum(dim=1).mean()


@methods.register("cc", label="CC")
class CorrelationCongruence(Distiller):
    """Cross-entropy and divergence, plus the distance between correlations within the batch.

    Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, arXiv:1904.01802.
    L = ce_weight * CE + kd_weight * KL + cc_weight * L_CC, by form:
    - embedding: L_CC = mean_i <D_i, D_(i+1)>, D = |e_s - e_t|, over neighbours i, i + 1 in the batch: the
      code of protocol `crd` (Tian et al., arXiv:1910.10699). It takes no correlation of either network.
    - kernel: L_CC = 1/B^2 * || psi(e_t) - psi(e_s) ||_F^2, psi the matrix of a Gaussian kernel as a Taylor
      series: what the paper describes.

    e = linear(pooled vector), one layer for each network. The teacher's is trained as well, as in
    public code: it may make the term small by itself, up to making all embeddings equal. The series
    holds for vectors of length 1, so embeddings are normalised in the form 'kernel'; there is
    public code that does not. Batches are drawn uniformly; the paper also tries class-balanced ones.
    """

    Config: ClassVar[type] = CorrelationCongruenceConfig
    config: CorrelationCongruenceConfig

    def __init__(self, config: CorrelationCongruenceConfig, setup: Setup) -> None:
        """Build an embedding for the student and one for the teacher."""
        super().__init__(config, setup)
        self.student_taps = (POOLED,)
        self.teacher_taps = ((POOLED,),)
        self.reads_teacher_logits = config.kd_weight > 0
        self.student_embedding, self.teacher_embedding = (
            nn.Linear(backbone.tap_shapes[POOLED][0], config.embedding_width)
            for backbone in (setup.student, setup.teacher)
        )

    def losses(self, step: Step) -> Losses:
        """Return the distance between correlations beside the predictions' terms."""
        student, teacher = pooled_vectors(step)
        distance = self._distance(self.student_embedding(student), self.teacher_embedding(teacher))
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "cc": self.config.cc_weight * distance},
            logits=step.student.require_logits(),
        )

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return L_CC of embeddings [B, D]."""
        if self.config.form == "embedding":
            return neighbouring_differences(student, teacher)
        ours, theirs = (
            gaussian_correlations(embeddings, self.config.gamma, self.config.order)
            for embeddings in (student, teacher)
        )
        return functional.mse_loss(ours, theirs)
