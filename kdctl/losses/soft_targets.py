"""Matching the softened predictions of a teacher."""

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
