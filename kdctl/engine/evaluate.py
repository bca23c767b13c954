"""How good a model is: logits of a whole split, and what they say."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.engine.batches import EvaluationSet
from kdctl.engine.device import Compute
from kdctl.records import SplitMetrics


@torch.no_grad()
def predict(model: nn.Module, images: EvaluationSet, compute: Compute) -> Tensor:
    """Return the logits [N, K] of every image, in fp32; the model is left in eval mode."""
    model.eval()
    with compute.arithmetic():
        return torch.cat([model(batch).float() for batch in images.images()])


def split_metrics(logits: Tensor, labels: Tensor) -> SplitMetrics:
    """Return accuracy and loss of logits [N, K] against labels [N].

    With fewer than five classes, top-5 counts them all.
    """
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return SplitMetrics(
        top1=_percent(hits[:, 0]),
        top5=_percent(hits.any(dim=1)),
        loss=functional.cross_entropy(logits, labels).item(),
    )


def agreement(logits: Tensor, other: Tensor) -> float:
    """Return the share of samples on which two models predict the same class, in percent."""
    return _percent(logits.argmax(dim=1) == other.argmax(dim=1))


def _percent(hits: Tensor) -> float:
    """Return the share of true entries; counted, since a mean in fp32 would round it."""
    return 100.0 * int(hits.sum()) / len(hits)
