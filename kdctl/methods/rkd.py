"""RKD: match distances and angles between the samples of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import dot_products, lengths, pooled_vectors, unit_vectors
from kdctl.protocols.backbone import POOLED
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import tunable

_CLOSEST = 1e-6
"""Least mean distance: keeps samples that all lie on one point from a division by 0."""


@dataclass(frozen=True, kw_only=True)
class RelationalConfig(Supervision):
    """Weights of the two relations."""

    distance_weight: Annotated[float, Ge(0)] = tunable(25.0, 1.0, 250.0, log=True)
    """Of the distances between two samples; 0 leaves them out. 25 in the paper and protocol `crd`."""
    angle_weight: Annotated[float, Ge(0)] = tunable(50.0, 1.0, 500.0, log=True)
    """Of the angles between three samples; 0 leaves them out. 50 in the paper and protocol `crd`."""

    def __post_init__(self) -> None:
        """Refuse weights with which nothing is distilled."""
        super().__post_init__()
        if self.distance_weight == self.angle_weight == 0:
            raise ValueError("distance_weight = 0 and angle_weight = 0 leave nothing to distil")


def differences(points: Tensor) -> Tensor:
    """Return x_j - x_i as [B, B, D] (i first) for points [B, D], in fp32."""
    points = points.float()
    return points[None, :] - points[:, None]


def relative_distances(apart: Tensor) -> Tensor:
    """Return the lengths [B, B] of differences [B, B, D], divided by the mean of those above 0."""
    distances = lengths(apart)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=_CLOSEST)


def angle_cosines(apart: Tensor) -> Tensor:
    """Return the cosine at sample i between samples j and k, as [B, B, B], of differences [B, B, D]."""
    directions = unit_vectors(apart)
    return dot_products(directions, directions)


@methods.register("rkd", label="RKD")
class RelationalKnowledgeDistillation(Distiller):
    """Cross-entropy and divergence, plus the losses of distances and angles within the batch.

    Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068, section 3.2:
    L = ce_weight * CE + kd_weight * KL
      + distance_weight * mean_ij huber( d_ij(t), d_ij(s) )
      + angle_weight * mean_ijk huber( c_ijk(t), c_ijk(s) ),
    where d_ij = |x_i - x_j| / (mean distance in the batch), c_ijk = cos of the angle at x_i between x_j and
    x_k, and huber(a, b) = (a - b)^2 / 2 where |a - b| <= 1, |a - b| - 1/2 elsewhere.

    x are the pooled vectors, which may differ in width. As in the authors' code the means are over all
    B^2 pairs and B^3 triples, a sample with itself included (its distance and its cosines are 0). Samples
    that coincide have no angle and get no gradient from it; that of public code explodes there.
    The angles take memory for B^3 and B^2 * D numbers, some times over.
    """

    Config: ClassVar[type] = RelationalConfig
    config: RelationalConfig

    def __init__(self, config: RelationalConfig, setup: Setup) -> None:
        """Nothing is trained besides the student."""
        super().__init__(config, setup)
        self.student_taps = (POOLED,)
        self.teacher_taps = ((POOLED,),)
        self.reads_teacher_logits = config.kd_weight > 0

    def losses(self, step: Step) -> Losses:
        """Return the losses of distances and angles beside the predictions' terms."""
        student, teacher = pooled_vectors(step)
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), **self._relations(student, teacher)},
            logits=step.student.require_logits(),
        )

    def _relations(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms about vectors [B, D_s] and [B, D_t]."""
        ours, theirs = differences(student), differences(teacher)
        relations = {
            "rkd_distance": (self.config.distance_weight, relative_distances),
            "rkd_angle": (self.config.angle_weight, angle_cosines),
        }
        return {
            name: weight * functional.smooth_l1_loss(relation(ours), relation(theirs))
            for name, (weight, relation) in relations.items()
            if weight > 0
        }
