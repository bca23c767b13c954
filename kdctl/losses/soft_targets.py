"""Predictions of student and teacher, softened or on one scale, and how far they are apart."""

from __future__ import annotations

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
