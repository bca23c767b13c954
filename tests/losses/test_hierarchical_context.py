from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdctl.losses.hierarchical_context import hierarchical_context_loss


def plain(student: Tensor, teacher: Tensor, weights: dict[int, float]) -> float:
    """Average both maps over cells, one after the other, as the paper describes it."""
    total = functional.mse_loss(student, teacher)
    for size, weight in weights.items():
        own, other = (functional.adaptive_avg_pool2d(features, size) for features in (student, teacher))
        total = total + weight * functional.mse_loss(own, other)
    return (total / (1 + sum(weights.values()))).item()


@pytest.mark.parametrize(
    ("size", "weights"),
    [
        (8, {4: 1 / 2, 2: 1 / 4, 1: 1 / 8}),
        (7, {4: 1 / 2, 2: 1 / 4, 1: 1 / 8}),
        (4, {2: 1 / 2, 1: 1 / 4}),
        (2, {1: 1 / 2}),
        (1, {}),
    ],
)
def test_coarser_summaries_count_half_as_much_each(size: int, weights: dict[int, float]) -> None:
    random = torch.Generator().manual_seed(size)
    student, teacher = (
        torch.randn(3, 5, size, size, dtype=torch.float64, generator=random) for _ in range(2)
    )
    loss = hierarchical_context_loss(student, teacher).item()
    assert loss == pytest.approx(plain(student, teacher, weights), rel=1e-5)


def test_equal_maps_have_no_distance() -> None:
    features = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert hierarchical_context_loss(features, features.clone()).item() == 0.0
