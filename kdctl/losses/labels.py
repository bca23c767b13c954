"""The loss against labels, hard ones or soft ones as mixup and label smoothing make them, for all methods."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kdctl.protocols.step import Batch


def label_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of logits [B, K] with the labels of a batch, in fp32, 0-dim.

    Labels are classes [B], or probabilities [B, K]:  L = -1/B sum_b sum_k y_bk log softmax(z_b)_k.

    Raises:
        ValueError: the images have no labels, since the method made them up.
    """
    return functional.cross_entropy(logits.float(), batch.require_labels())
