"""The loss against labels, for all methods, and what feature methods are added to.

Labels are hard ones, or soft ones as mixup and label smoothing make them. The code base of protocol `simkd`
adds cross-entropy and divergence from the teacher, with weight 1, to every feature method; that of protocol
`crd` adds the cross-entropy alone (kd_weight = 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional

from kdctl.losses.soft_targets import soft_target_kl
from kdctl.protocols.step import Batch, Step


class LabelWeight(Protocol):
    """Options of a method that learns from labels."""

    @property
    def ce_weight(self) -> float:
        """Of the loss against labels; 0 leaves it out."""
        ...


def label_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of logits [B, K] with the labels of a batch, in fp32, 0-dim.

    Labels are classes [B], or probabilities [B, K]:  L = -1/B sum_b sum_k y_bk log softmax(z_b)_k.

    Raises:
        ValueError: the images have no labels, since the method made them up.
    """
    return functional.cross_entropy(logits.float(), batch.require_labels())


def task_term(weights: LabelWeight, step: Step) -> Tensor | None:
    """Return the weighted loss of the student's predictions against labels, 0-dim; None with weight 0."""
    if weights.ce_weight == 0:
        return None
    return weights.ce_weight * label_loss(step.student.require_logits(), step.batch)


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """Weights of the terms beside a method's own; its `Config` adds its own to these."""

    ce_weight: Annotated[float, Ge(0)] = 1.0
    """Of the cross-entropy with the labels; 0 leaves it out."""
    kd_weight: Annotated[float, Ge(0)] = 1.0
    """Of T^2 * KL(teacher || student) of softened predictions; 0 leaves it out."""
    temperature: Annotated[float, Gt(0)] = 4.0
    """T of that divergence."""

    def __post_init__(self) -> None:
        """Refuse weights that leave the student's classifier, which is shipped, as it was drawn."""
        if not self.trains_classifier:
            raise ValueError(
                "ce_weight = 0 and kd_weight = 0: a loss on features alone does not train the student's "
                "classifier, which is shipped"
            )

    @property
    def trains_classifier(self) -> bool:
        """Whether a term reaches the student's predictions."""
        return self.ce_weight > 0 or self.kd_weight > 0


def prediction_terms(weights: Supervision, step: Step) -> dict[str, Tensor]:
    """Return the weighted divergence from the first teacher's predictions as 'kd'; nothing with weight 0."""
    if weights.kd_weight == 0:
        return {}
    student, teacher = step.student.require_logits(), step.teachers[0].require_logits()
    return {"kd": weights.kd_weight * soft_target_kl(student, teacher, weights.temperature)}
