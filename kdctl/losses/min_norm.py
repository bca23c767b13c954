"""The shortest mean of some vectors: weights with which gradients agree as far as they can."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from kdctl.losses.vectors import dot_products

MOST_VECTORS = 8
"""More have too many faces to try: 3 to the power of their number."""

_SLACK = 1e-5
"""How far a weight may lie outside of its bounds and count as on them."""
_RIDGE = 1e-6
"""Added to the products, relative to their mean: where some means are equally short, the most even one."""


class MinNormWeights(nn.Module):
    """Finds the weights a that minimise | sum_k a_k v_k |^2 with sum a = 1 and 0 <= a_k <= `max_weight`.

    Exact, and without a look at values from the host: the weights at the minimum are those of the
    unbounded problem on one face of the box, where some are 0, some `max_weight`, and the rest solve linear
    equations. All faces are solved at once, and the shortest admissible mean is taken.
    """

    free: Tensor
    """[F, N]: which weights are free on each face, 0 or 1."""
    fixed: Tensor
    """[F, N]: what the others are."""

    def __init__(self, count: int, max_weight: float = 1.0) -> None:
        """Prepare for `count` vectors, at most `MOST_VECTORS`; `max_weight` is 1 / `count` or more."""
        super().__init__()
        self.max_weight = max_weight
        faces = [face for face in itertools.product((None, 0.0, max_weight), repeat=count) if None in face]
        free = [[float(choice is None) for choice in face] for face in faces]
        fixed = [[choice or 0.0 for choice in face] for face in faces]
        self.register_buffer("free", torch.tensor(free, dtype=torch.float64), persistent=False)
        self.register_buffer("fixed", torch.tensor(fixed, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def forward(self, vectors: Tensor) -> Tensor:
        """Return the weights [N], fp32, of vectors [N, D]; those of vectors that are all zero are equal."""
        products = dot_products(vectors, vectors).double()
        scale = products.diagonal().mean()
        scaled = products / torch.where(scale > 0, scale, 1.0)
        scaled = scaled + _RIDGE * torch.eye(len(vectors), dtype=torch.float64, device=vectors.device)
        weights = _solve(scaled, self.free, self.fixed)
        inside = ((weights >= -_SLACK) & (weights <= self.max_weight + _SLACK)).all(dim=1)
        lengths = (weights @ scaled * weights).sum(dim=1)
        best = torch.where(inside, lengths, torch.inf).argmin(dim=0, keepdim=True)
        chosen = weights.index_select(0, best)[0].clamp(0.0, self.max_weight)
        return (chosen / chosen.sum()).float()


def _solve(products: Tensor, free: Tensor, fixed: Tensor) -> Tensor:
    """Return for each face the weights [F, N] of the shortest mean whose fixed ones are as said.

    With a multiplier for the sum:  (G a)_k = m for free k,  a_k = fixed for the others,  sum a = 1.
    """
    unit = torch.eye(len(products), dtype=products.dtype, device=products.device)
    # Rows of fixed weights are those of the unit matrix; their columns move to the right-hand side.
    both = free[:, :, None] * free[:, None, :]
    matrix = products * both + unit * (1 - free)[:, :, None]
    right = -(products @ fixed.mT).mT * free
    particular, direction = _eliminate(matrix, torch.stack((right, free), dim=2)).unbind(dim=2)
    lacking = 1 - fixed.sum(dim=1) - (particular * free).sum(dim=1)
    multiplier = lacking / (direction * free).sum(dim=1)
    return fixed + free * (particular + multiplier[:, None] * direction)


def _eliminate(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve positive definite systems [F, N, N] for right-hand sides [F, N, R], by Gauss without pivots.

    torch's own solver looks at a GPU's result to see whether it failed.
    """
    whole = torch.cat((matrix, right), dim=2)
    count = matrix.shape[1]
    for place in range(count):
        row = whole[:, place : place + 1] / whole[:, place : place + 1, place : place + 1]
        others = whole[:, :, place : place + 1] * row
        keep = torch.arange(count, device=whole.device)[None, :, None] == place
        whole = torch.where(keep, row, whole - others)
    return whole[:, :, count:]
