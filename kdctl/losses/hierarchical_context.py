"""Comparing maps as a whole and in coarser and coarser summaries of them."""

from __future__ import annotations

from torch import Tensor

from kdctl.protocols.maps import pool_to

_COARSER = (4, 2, 1)


def hierarchical_context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two maps and of their averages over 4x4, 2x2 and 1x1 cells.

    Chen et al., arXiv:2104.09044 (HCL). Each summary counts half as much as the finer one
    before it, and the sum is divided by the sum of these weights; those not coarser than the map are
    left out. Computed in fp32.

    Args:
        student: [B, C, H, W].
        teacher: the same shape.

    Returns:
        0-dim tensor.
    """
    difference = student.float() - teacher.float()
    loss, total, weight = difference.square().mean(), 1.0, 1.0
    for size in _COARSER:
        if size < difference.shape[-2]:
            weight /= 2
            total += weight
            # The difference of averages is the average of the differences.
            loss = loss + weight * pool_to(difference, (size, size)).square().mean()
    return loss / total
