"""Vectors of features: lengths, directions, products; gradients stay finite where vectors vanish."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from kdctl.protocols.backbone import POOLED
from kdctl.protocols.distiller import Step


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Return a context in which matrix products on the tensor's device keep their operands' precision.

    Under autocast `float()` is not enough: a product of two fp32 tensors would be taken in bf16, whose
    three digits are too few for differences of similarities.
    """
    if tensor.is_meta:  # shapes alone, for which torch knows no autocast
        return contextlib.nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


_SHORTEST = 1e-6
"""Vectors of features that are shorter are rounding errors: they have no direction."""


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return vectors [..., D] divided by their length, in fp32.

    One that is shorter than 1e-6 becomes the zero vector, and gets no gradient: that of its direction
    would be larger than a million.
    """
    vectors = vectors.float()
    squares = vectors.square().sum(dim=-1, keepdim=True)
    directed = squares > _SHORTEST**2
    # The inner `where` keeps infinity out of the branch not taken, whose gradient would be 0 * inf.
    inverse = torch.where(directed, squares, 1.0).rsqrt()
    return torch.where(directed, vectors * inverse, 0.0)


def lengths(vectors: Tensor) -> Tensor:
    """Return the lengths [...] of vectors [..., D], in fp32; the gradient at length 0 is 0."""
    squares = vectors.float().square().sum(dim=-1)
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def dot_products(left: Tensor, right: Tensor) -> Tensor:
    """Return the products [..., N, M] of all pairs of vectors [..., N, D] and [..., M, D], in fp32."""
    with full_precision(left):
        return left.float() @ right.float().mT


def pooled_vectors(step: Step) -> tuple[Tensor, Tensor]:
    """Return the pooled features of student [B, D_s] and first teacher [B, D_t]."""
    return step.student.taps[POOLED], step.teachers[0].taps[POOLED]
