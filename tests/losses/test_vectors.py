from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdctl.losses.vectors import dot_products, full_precision, lengths, unit_vectors


@pytest.fixture
def vectors() -> Tensor:
    return 3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def test_directions_have_length_1(vectors: Tensor) -> None:
    expected = vectors.double() / vectors.double().square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(unit_vectors(vectors).double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(lengths(unit_vectors(vectors)), torch.ones(4))


@pytest.mark.parametrize("length", [0.0, 1e-8])
def test_a_vanishing_vector_has_no_direction_and_no_gradient(length: float) -> None:
    vectors = torch.tensor([[length, 0.0], [3.0, 4.0]], requires_grad=True)
    directions = unit_vectors(vectors)
    (directions * torch.tensor([[5.0, 7.0], [1.0, 0.0]])).sum().backward()
    assert directions[0].tolist() == [0.0, 0.0]
    assert vectors.grad is not None
    assert vectors.grad[0].tolist() == [0.0, 0.0]
    assert vectors.grad[1].tolist() == pytest.approx([0.2 - 0.6 * 0.12, -0.8 * 0.12])


def test_a_length_of_0_has_a_gradient_of_0() -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    lengths(vectors).sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)]]


def test_products_keep_their_digits_under_autocast(vectors: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        products = dot_products(vectors, vectors)
        coarse = vectors @ vectors.T
    exact = vectors.double() @ vectors.double().T
    assert (products - exact).abs().max() < 1e-5 < (coarse - exact).abs().max()
    assert products.dtype == torch.float32


def test_products_are_of_all_pairs_of_each_set() -> None:
    left, right = torch.ones(2, 3, 5), torch.full((2, 4, 5), 2.0)
    assert dot_products(left, right).shape == (2, 3, 4)
    assert math.isclose(dot_products(left, right).mean().item(), 10.0)


def test_products_inside_are_taken_in_fp32_also_under_autocast() -> None:
    left, right = torch.randn(4, 8), torch.randn(8, 3)
    exact = left @ right
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (left @ right).dtype == torch.bfloat16
        with full_precision(left):
            assert torch.equal(left @ right, exact)
        assert (left @ right).dtype == torch.bfloat16


def test_without_autocast_nothing_changes() -> None:
    with full_precision(torch.zeros(1)):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
