"""How far a student's features are from a teacher's, and what of them is compared.

Each distance is a mean over samples of maps or vectors of the same shape; `kept` names the samples that
count. Attention maps and rows of similarities stand for features whose shapes differ. All in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdctl.losses.vectors import dot_products, unit_vectors

_LOG_FLOOR = 1e-5
"""Keeps the gradient of a logarithm finite where student and teacher agree."""


def l2_distance(student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return the mean squared difference over samples, channels and positions (not a sum).

    Args:
        student: [B, C, ...].
        teacher: the same shape.
        kept: [B], bool: the samples that count; None: all. With none kept the distance is 0.

    Returns:
        0-dim tensor, fp32. So do the other distances, with the same arguments.
    """
    return _mean(functional.mse_loss(student.float(), teacher.float(), reduction="none"), kept)


def smooth_l1_distance(student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return the mean of d^2 / 2 where the difference d is below 1, of |d| - 1/2 elsewhere."""
    return _mean(functional.smooth_l1_loss(student.float(), teacher.float(), reduction="none"), kept)


def cosine_distance(student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return 1 - cos of the channel vectors, mean over samples and positions: blind to their length.

    A vector of zeros is as far from all others as one at a right angle: 1.
    """
    ours, theirs = (unit_vectors(features.movedim(1, -1)) for features in (student, teacher))
    return _mean(1.0 - (ours * theirs).sum(dim=-1), kept)


def channel_kl(
    student: Tensor, teacher: Tensor, kept: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """Return T^2 * KL(teacher || student) of softmax(features / T) over channels.

    Summed over channels, mean over samples and positions. Blind to what is added to all channels of a
    position alike.
    """
    ours = functional.log_softmax(student.float() / temperature, dim=1)
    theirs = functional.log_softmax(teacher.float() / temperature, dim=1)
    divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
    return _mean(divergence, kept) * temperature**2


def log_sum_distance(
    student: Tensor, teacher: Tensor, kept: Tensor | None = None, *, power: float = 4.0
) -> Tensor:
    """Return log( mean over samples of sum over channels and positions of |difference|^power ).

    Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation",
    AAAI 2024, arXiv:2303.11098. Its code sums over the samples, too: that adds the logarithm of their
    number and leaves the gradient as it is. The distance is negative where the sum is below 1.
    """
    sums = (student.float() - teacher.float()).abs().pow(power).flatten(1).sum(dim=1)
    distance = (_mean(sums, kept) + _LOG_FLOOR).log()
    return distance if kept is None else torch.where(kept.any(), distance, 0.0)


def _mean(values: Tensor, kept: Tensor | None) -> Tensor:
    """Return the mean of [B, ...] over the kept samples; 0 when there are none."""
    if kept is None:
        return values.mean()
    per_sample = values.reshape(len(values), -1).mean(dim=1)
    return torch.where(kept, per_sample, 0.0).sum() / kept.sum().clamp(min=1)


def attention_map(features: Tensor) -> Tensor:
    """Return the spatial attention of maps [B, C, H, W] as vectors [B, H * W] of length 1.

    Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928, section 3.1: the squares of the activations,
    averaged over the channels (the sum gives the same direction), flattened and divided by the L2 norm.
    A sample without any activation gets the zero vector. Computed in fp32.
    """
    return unit_vectors(features.float().square().mean(dim=1).flatten(1))


def similarity_rows(features: Tensor, *, num_anchors: int | None = None) -> Tensor:
    """Return the similarities of each sample to the first samples of the batch, as rows of length 1.

    Tung and Mori, ICCV 2019, arXiv:1907.09682, eq. 1 and 2: the inner products of the flattened
    features, each row divided by its L2 norm. Computed in fp32.

    Args:
        features: [B, ...], maps or vectors.
        num_anchors: how many samples of the batch to compare with; None: all.

    Returns:
        [B, min(B, num_anchors)].
    """
    flat = features.flatten(1)
    return unit_vectors(dot_products(flat, flat[:num_anchors]))
