from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from kdctl.losses.min_norm import MOST_VECTORS, MinNormWeights


def length(weights: np.ndarray, vectors: Tensor) -> float:
    """Restate the square of the mean's length."""
    return float(((weights @ vectors.double().numpy()) ** 2).sum())


def solved_elsewhere(vectors: Tensor, max_weight: float) -> float:
    """Return the least square that a general solver finds from several starts."""
    count = len(vectors)
    starts = [np.full(count, 1 / count), *np.random.default_rng(0).dirichlet(np.ones(count), size=4)]
    return min(
        minimize(
            length,
            start,
            args=(vectors,),
            bounds=[(0, max_weight)] * count,
            constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        ).fun
        for start in starts
    )


@pytest.mark.parametrize("max_weight", [0.6, 1.0])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_shortest_mean_within_the_bounds(count: int, max_weight: float, seed: int) -> None:
    vectors = torch.randn(count, 7, generator=torch.Generator().manual_seed(seed)) + 0.5
    weights = MinNormWeights(count, max_weight)(vectors)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert weights.min() >= 0
    assert weights.max() <= max_weight + 1e-5
    ours, theirs = length(weights.double().numpy(), vectors), solved_elsewhere(vectors, max_weight)
    assert ours <= theirs * (1 + 1e-4) + 1e-5 * float(vectors.square().sum())


def test_two_vectors_have_the_textbook_solution() -> None:
    first, second = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])
    weights = MinNormWeights(2)(torch.stack((first, second)))
    torch.testing.assert_close(weights, torch.tensor([0.1, 0.9]), atol=1e-5, rtol=0)
    bounded = MinNormWeights(2, 0.6)(torch.stack((first, second)))
    torch.testing.assert_close(bounded, torch.tensor([0.4, 0.6]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", range(1, MOST_VECTORS + 1))
def test_equal_vectors_and_zeros_count_alike(count: int) -> None:
    even = torch.full((count,), 1 / count)
    for vectors in (torch.zeros(count, 3), torch.ones(count, 3), 1e-20 * torch.ones(count, 3)):
        torch.testing.assert_close(
            MinNormWeights(count, max(0.6, 1 / count))(vectors), even, atol=1e-4, rtol=0
        )


def test_scale_does_not_matter_and_order_only_permutes() -> None:
    vectors = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)) + 1
    find = MinNormWeights(4, 0.6)
    torch.testing.assert_close(find(1e-6 * vectors), find(vectors), atol=1e-4, rtol=0)
    for order in itertools.islice(itertools.permutations(range(4)), 5):
        torch.testing.assert_close(find(vectors[list(order)]), find(vectors)[list(order)], atol=1e-5, rtol=0)
