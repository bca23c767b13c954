from __future__ import annotations

import pytest
import torch

from kdctl.losses.standardised import standardised


def test_each_sample_has_mean_zero_and_deviation_one() -> None:
    logits = 7 * torch.randn(4, 9, generator=torch.Generator().manual_seed(0)) + 3
    scaled = standardised(logits)
    expected = (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + 1e-7)
    torch.testing.assert_close(scaled, expected)
    torch.testing.assert_close(scaled.mean(dim=1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(scaled.std(dim=1), torch.ones(4))


def test_scale_and_offset_of_a_sample_do_not_matter() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(standardised(5 * logits - 2), standardised(logits))


def test_gradients_pass_through_mean_and_deviation() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    (standardised(logits) * weights).sum().backward()
    plain = logits.detach().double().requires_grad_()
    centred = plain - plain.mean(dim=1, keepdim=True)
    (centred / plain.std(dim=1, keepdim=True) * weights).sum().backward()
    torch.testing.assert_close(logits.grad, plain.grad, check_dtype=False, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_equal_logits_become_zero_and_get_no_gradient(value: float) -> None:
    logits = torch.full((2, 5), value, requires_grad=True)
    scaled = standardised(logits)
    (scaled * torch.arange(5.0)).sum().backward()
    assert not scaled.any()
    assert logits.grad is not None
    assert not logits.grad.any()
