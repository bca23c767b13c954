from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdctl.losses.similarity import similarity_rows


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def test_similarities_are_inner_products_in_rows_of_length_1() -> None:
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    rows = similarity_rows(vectors)
    assert rows[0].tolist() == pytest.approx([1 / 10**0.5, 3 / 10**0.5])
    assert rows[1].tolist() == pytest.approx([3 / 634**0.5, 25 / 634**0.5])


def test_anchors_are_the_first_samples(maps: Tensor) -> None:
    products = maps.flatten(1) @ maps[:2].flatten(1).T
    expected = products / products.norm(dim=1, keepdim=True)
    torch.testing.assert_close(similarity_rows(maps, num_anchors=2), expected)
    assert similarity_rows(maps, num_anchors=9).shape == (5, 5)


def test_a_sample_without_activation_is_like_no_other(maps: Tensor) -> None:
    maps[3] = 0
    maps.requires_grad_()
    rows = similarity_rows(maps)
    rows.sum().backward()
    assert not rows[3].any()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
