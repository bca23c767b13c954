"""The loss against labels, hard ones or soft ones as mixup and label smoothing make them, for all methods."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn import functional

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
