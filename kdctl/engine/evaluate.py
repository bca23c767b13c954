"""What a model makes of a whole split: logits and what they say, and the features before them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.engine.device import Compute
from kdctl.engine.streamed_batches import EvaluationImages
from kdctl.errors import KdctlError
from kdctl.records import SplitMetrics

CALIBRATION_BINS = 15


@torch.no_grad()
def predict_each(model: nn.Module, batches: Iterable[Tensor], compute: Compute) -> list[Tensor]:
    """Return the logits [B, K] of each batch of images, in fp32; the model is left in eval mode."""
    model.eval()
    with compute.arithmetic():
        return [model(batch).float() for batch in batches]


@torch.no_grad()
def predict(model: nn.Module, images: EvaluationImages, compute: Compute) -> Tensor:
    """Return the logits [N, K] of every image, in fp32; the model is left in eval mode."""
    return torch.cat(predict_each(model, images.images(), compute))


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


def divergence(logits: Tensor, teacher_logits: Tensor) -> float:
    """Return the mean KL(teacher || model) of the predictions [N, K], in nats.

    With `agreement`, how Stanton et al., "Does Knowledge Distillation Really Work?", NeurIPS 2021,
    arXiv:2106.05945, section 3.2, measure fidelity: how well a student matches its teacher, right or wrong.
    """
    predicted, taught = (
        functional.log_softmax(values.double(), dim=1) for values in (logits, teacher_logits)
    )
    return functional.kl_div(predicted, taught, reduction="batchmean", log_target=True).item()


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error of logits [N, K] against labels [N], in percent.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599, eq. 3: samples
    are put into 15 bins of equal width by their confidence, the highest probability; bin m holds
    ((m - 1) / 15, m / 15]. ECE is the mean of |accuracy - mean confidence| over bins, weighted by size.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    surplus = (predicted == labels).double() - confidence
    # |accuracy - confidence| times the size of a bin is the absolute value of the sum of differences in it.
    gaps = surplus.new_zeros(CALIBRATION_BINS).index_add(0, bins, surplus).abs()
    return 100.0 * gaps.sum().item() / len(labels)


def per_class_top1(logits: Tensor, labels: Tensor) -> tuple[float | None, ...]:
    """Return the accuracy on the samples of each class, in percent; None for a class without samples."""
    num_classes = logits.shape[1]
    counts = torch.bincount(labels.cpu(), minlength=num_classes).tolist()
    right = labels[logits.argmax(dim=1) == labels]
    hits = torch.bincount(right.cpu(), minlength=num_classes).tolist()
    return tuple(100.0 * hit / count if count else None for hit, count in zip(hits, counts, strict=True))


def confusion(logits: Tensor, labels: Tensor) -> tuple[tuple[int, int, int], ...]:
    """Return (class, predicted class, number of samples) wherever logits [N, K] put samples of labels [N]."""
    num_classes = logits.shape[1]
    pairs = labels.cpu() * num_classes + logits.argmax(dim=1).cpu()
    found, counts = torch.unique(pairs, return_counts=True)
    return tuple(
        (pair // num_classes, pair % num_classes, count)
        for pair, count in zip(found.tolist(), counts.tolist(), strict=True)
    )


def _percent(hits: Tensor) -> float:
    """Return the share of true entries; counted, since a mean in fp32 would round it."""
    return 100.0 * int(hits.sum()) / len(hits)


def pooled_features(model: nn.Module, images: EvaluationImages, compute: Compute) -> Tensor:
    """Return the vectors [N, D] that the last linear layer reads, in fp32 on the CPU, in the images' order.

    Of a student that ships with a projector these are the projected features.

    Raises:
        KdctlError: the model has no linear layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise KdctlError(
            "the model has no linear layer, so there are no features before it.",
            "take features of a model that ends in a linear classifier.",
        )
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].float().cpu())

    handle = layers[-1].register_forward_pre_hook(keep)
    try:
        predict(model, images, compute)
    finally:
        handle.remove()
    return torch.cat(seen)
