"""Predictions of student and teacher, softened or on one scale, and how far they are apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soft_target_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of softened predictions, mean over the batch.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531, part 2:
    with p = softmax(z / T), (T^2 / B) * sum_b sum_c p_teacher * log(p_teacher / p_student). The T^2
    keeps the gradient's size when T changes. Computed in fp32.

    Args:
        student_logits: [B, K], before softmax.
        teacher_logits: [B, K], before softmax.
        temperature: T > 0.

    Returns:
        0-dim tensor.
    """
    student = functional.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


_LEAST_DEVIATION = 1e-7


def standardised(logits: Tensor) -> Tensor:
    """Return each sample's logits less their mean, divided by their standard deviation.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv:2403.01427. The deviation
    is the unbiased one (n - 1) plus 1e-7, as in the authors' code; gradients pass through mean and
    deviation. Equal logits become 0, and get a gradient of 0. Computed in fp32.

    Args:
        logits: [B, K], K > 1.

    Returns:
        [B, K].
    """
    centred = logits.float() - logits.float().mean(dim=1, keepdim=True)
    squares = centred.square().sum(dim=1, keepdim=True)
    differs = squares > 0
    deviation = squares.where(differs, 1.0).div(logits.shape[1] - 1).sqrt() + _LEAST_DEVIATION
    return (centred / deviation).where(differs, 0.0)


def target_class_kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Return T^2 * the divergence of "the label's class or not" (TCKD), mean over the batch.

    Args:
        student_logits: [B, K], before softmax.
        teacher_logits: [B, K], before softmax.
        labels: [B], int64.
        temperature: T > 0.

    Returns:
        0-dim tensor, fp32. So does `other_classes_kl`, with the same arguments.
    """
    target = _is_target(student_logits, labels)
    student = _log_binary(student_logits.float() / temperature, target)
    teacher = _log_binary(teacher_logits.float() / temperature, target)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def other_classes_kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Return T^2 * the divergence among the classes that are not the label's (NCKD), mean over the batch."""
    target = _is_target(student_logits, labels)
    student = _log_others(student_logits.float() / temperature, target)
    teacher = _log_others(teacher_logits.float() / temperature, target)
    # At the label both are 0 here, and so is their difference: the class drops out.
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return divergence.mean() * temperature**2


def _is_target(logits: Tensor, labels: Tensor) -> Tensor:
    """Return [B, K], bool: which entry is the label's class."""
    return torch.arange(logits.shape[1], device=logits.device) == labels[:, None]


def _log_binary(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-probabilities [B, 2] of the label's class and of all others together."""
    own = logits.masked_fill(~target, -torch.inf).logsumexp(dim=1)
    others = logits.masked_fill(target, -torch.inf).logsumexp(dim=1)
    return torch.stack([own, others], dim=1).log_softmax(dim=1)


def _log_others(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-probabilities [B, K] among the other classes; 0 at the label's."""
    return logits.masked_fill(target, -torch.inf).log_softmax(dim=1).masked_fill(target, 0.0)
