"""The two parts of the divergence from a teacher: is it the label's class, and which of the others is it.

Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv:2203.08679, section 3.1. With
p = softmax(z / T), y the label's class and p' = p without it, scaled to sum 1:

    KL(p_t || p_s) = KL( (p_t[y], 1 - p_t[y]) || (p_s[y], 1 - p_s[y]) ) + (1 - p_t[y]) * KL(p'_t || p'_s).

Both parts are taken from log-probabilities in fp32, so that nothing is lost where a teacher is sure of
its answer; public code takes the logarithm of 1 - p, which is then 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
