"""What invented images are asked for, besides the statistics of the teacher's batch norms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdctl.losses.vectors import dot_products


def agreed_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return mean_b( [argmax z_s = argmax z_t] * KL(teacher || student) ), 0-dim, T = 1.

    Fang et al., arXiv:2105.08584, section 3.2 (decision adversarial distillation): images are to show what
    the student does not know yet, but not to fool either.

    Args:
        student_logits: [B, K], before softmax.
        teacher_logits: [B, K], before softmax.
    """
    student = functional.log_softmax(student_logits.float(), dim=1)
    teacher = functional.log_softmax(teacher_logits.float(), dim=1)
    divergences = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    agree = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    return (divergences * agree).mean()


def instance_contrast(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of finding each anchor's positive among all positives and negatives, 0-dim.

    Fang et al., arXiv:2105.08584, eq. 4:
    -mean_i log( exp(a_i . p_i / tau) / ( sum_j exp(a_i . p_j / tau) + sum_k exp(a_i . n_k / tau) ) ).

    Args:
        anchors: [B, D], of length 1: a view of each image.
        positives: [B, D], of length 1: another view of the same images.
        negatives: [N, D], of length 1: of other images; N may be 0.
        temperature: tau > 0.
    """
    scores = dot_products(anchors, torch.cat([positives, negatives])) / temperature
    return functional.cross_entropy(scores, torch.arange(len(anchors), device=anchors.device))
