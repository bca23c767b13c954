from __future__ import annotations

import pytest
import torch

from kdctl.losses.attention import attention_map


def test_attention_goes_with_the_square_of_the_activations() -> None:
    features = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # two channels of a 1x2 map
    length = (9**2 + 4**2) ** 0.5
    assert attention_map(features)[0].tolist() == pytest.approx([9 / length, 4 / length])


def test_attention_is_blind_to_signs_and_scale() -> None:
    features = torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    assert attention_map(features).shape == (3, 10)
    torch.testing.assert_close(attention_map(-9 * features), attention_map(features))


def test_where_nothing_is_active_there_is_no_attention() -> None:
    features = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention = attention_map(features)
    attention.sum().backward()
    assert not attention.any()
    assert features.grad is not None
    assert not features.grad.any()


def test_attention_is_computed_in_fp32() -> None:
    features = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    assert attention_map(features).dtype == torch.float32
