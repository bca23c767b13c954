"""TTM: match the teacher's softened predictions with the student's own, unsoftened ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional

from kdctl.losses.supervision import task_term
from kdctl.protocols.distiller import Distiller, Losses, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class TransformedTeacherConfig:
    """Weights, the power of the transform, and whether samples are weighted.

    The authors choose power and weight by the pair of models; README values for VGG-13 to VGG-8 are
    T = 10, weight 45 (TTM) and T = 5, weight 4 (WTTM, beside CRD).
    """

    temperature: Annotated[float, Gt(0)] = tunable(10.0, 1.0, 20.0, log=True)
    """T: the teacher's logits are divided by it; 1 / T is the power gamma of the authors' code."""
    ttm_weight: Annotated[float, Gt(0)] = tunable(45.0, 1.0, 200.0, log=True)
    """beta: of the divergence, which has no T^2."""
    weighted: bool = False
    """Each sample counts as much as the teacher's softened prediction has power (WTTM): from 1 where the
    teacher is sure to K^(1 - 1/T) where it is not. It makes the term larger: lower the weight."""
    ce_weight: Annotated[float, Ge(0)] = tunable(1.0, 0.0, 1.0)
    """Of the cross-entropy with the labels; 0 leaves it out."""


@methods.register("ttm", label="TTM")
class TransformedTeacherMatching(Distiller):
    """Cross-entropy plus the divergence of unsoftened predictions from the teacher's softened ones.

    Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024,
    arXiv:2402.11148:
    L = ce_weight * CE(z_s, y) + ttm_weight * mean_b w_b * KL( softmax(z_t / T) || softmax(z_s) ),
    with w = 1, or weighted w_b = sum_c softmax(z_t)_c^(1/T).

    softmax(z / T) is the power transform of softmax(z). The student has no temperature, which is worth a
    Renyi entropy as regulariser, and there is no T^2. The authors raise probabilities to a power; we
    compute with logarithms, so that none is lost to underflow.
    """

    Config: ClassVar[type] = TransformedTeacherConfig
    config: TransformedTeacherConfig

    def losses(self, step: Step) -> Losses:
        """Return the weighted cross-entropy and divergence."""
        logits, teacher = step.student.require_logits(), step.teachers[0].require_logits().float()
        softened = functional.log_softmax(teacher / self.config.temperature, dim=1)
        own = functional.log_softmax(logits.float(), dim=1)
        divergences = functional.kl_div(own, softened, reduction="none", log_target=True).sum(dim=1)
        if self.config.weighted:
            divergences = divergences * _powers(teacher, self.config.temperature)
        return Losses(
            task=task_term(self.config, step),
            transfer={"ttm": self.config.ttm_weight * divergences.mean()},
            logits=logits,
        )


def _powers(logits: Tensor, temperature: float) -> Tensor:
    """Return the sum over classes of softmax(logits)^(1 / T), [B] for logits [B, K]."""
    softened = torch.logsumexp(logits / temperature, dim=1)
    return (softened - torch.logsumexp(logits, dim=1) / temperature).exp()
