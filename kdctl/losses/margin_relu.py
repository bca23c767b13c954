"""The teacher's side of OFD: a ReLU that keeps a margin below zero, and a distance that respects it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HIGHEST_SCORE = 30.0
"""Standard deviations above zero at which nothing negative is left to speak of."""


def expected_negative(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return E[x | x < 0] of normal variables: m - s * pdf(m / s) / cdf(-m / s).

    Heo et al., arXiv:1904.01866. Through logarithms, so that it holds for any mean (public code
    breaks off where fewer than one in a thousand are negative, and takes -3 s).

    Args:
        mean: m, any shape.
        deviation: s >= 0, the same shape.

    Returns:
        The same shape, fp64: below 0, or 0 where s = 0 and m >= 0.
    """
    deviation = deviation.double().clamp(min=1e-12)
    score = (mean.double() / deviation).clamp(max=_HIGHEST_SCORE)
    log_density = -score.square() / 2 - math.log(2 * math.pi) / 2
    hazard = (log_density - torch.special.log_ndtr(-score)).exp()
    return deviation * (score - hazard)


def measured_negative(features: Tensor) -> Tensor:
    """Return the mean of each channel's negative values in this batch; 0 where it has none.

    Args:
        features: [B, C, H, W].

    Returns:
        [1, C, 1, 1], fp32.
    """
    total = features.float().clamp(max=0).sum(dim=(0, 2, 3), keepdim=True)
    count = (features < 0).sum(dim=(0, 2, 3), keepdim=True)
    return total / count.clamp(min=1)


def partial_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance without the positions where student <= teacher <= 0.

    Heo et al., arXiv:1904.01866: there both are cut off by the ReLU to come. Summed over channels and
    positions, mean over samples, in fp32.

    Args:
        student: [B, C, H, W].
        teacher: the same shape.

    Returns:
        0-dim tensor.
    """
    student, teacher = student.float(), teacher.float()
    matters = (student > teacher) | (teacher > 0)
    return torch.where(matters, (student - teacher).square(), 0.0).flatten(1).sum(dim=1).mean()
