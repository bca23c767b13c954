from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdctl.losses.noise_contrast import draw_others, log_mean_exponential, noise_contrast, weights_of_counted

NUM_SAMPLES = 12


@pytest.fixture
def scores() -> Tensor:
    """Of 4 anchors: the partner's and those of 7 noise samples."""
    return 3 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def plain_contrast(scores: Tensor, normalisation: Tensor) -> Tensor:
    """Restate the contrast as the authors write it: Z = N * mean, noise probability K / N."""
    count = scores.shape[1] - 1
    noise = count / NUM_SAMPLES
    total = torch.zeros((), dtype=torch.float64)
    for row in scores.double():
        probabilities = row.exp() / (normalisation.double() * NUM_SAMPLES)
        total = total - (probabilities[0] / (probabilities[0] + noise)).log()
        for probability in probabilities[1:]:
            total = total - (noise / (probability + noise)).log()
    return total / len(scores)


def test_value_and_gradient_are_those_of_the_formula(scores: Tensor) -> None:
    ours, plain = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    log_mean = log_mean_exponential(scores)
    value, expected = noise_contrast(ours, log_mean), plain_contrast(plain, scores.double().exp().mean())
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_noise_that_counts_twice_is_noise_drawn_twice(scores: Tensor) -> None:
    twice = torch.cat([scores[:, :5], scores[:, 1:5]], dim=1)
    weights = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]).expand(4, 8)
    padded = torch.cat([scores[:, :5], torch.full((4, 4), 100.0)], dim=1)
    log_mean = torch.tensor(0.5)
    assert noise_contrast(padded, log_mean, weights=weights).item() == pytest.approx(
        noise_contrast(twice, log_mean).item(), rel=1e-6
    )


def test_noise_that_does_not_count_leaves_its_weight_to_the_rest() -> None:
    counted = torch.tensor([[True, True, False, True], [False, False, True, True], [True] * 4, [False] * 4])
    third = pytest.approx(4 / 3)
    assert weights_of_counted(counted).tolist() == [
        [third, third, 0.0, third],
        [0.0, 0.0, 2.0, 2.0],
        [1.0] * 4,
        [0.0] * 4,
    ]


def test_scores_of_any_size_are_no_trouble() -> None:
    scores = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    log_mean = log_mean_exponential(scores.detach())
    value = noise_contrast(scores, log_mean)
    value.backward()
    assert log_mean.item() == pytest.approx(1e4 - math.log(3))
    assert value.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("num_samples", [2, 3, 50])
def test_all_others_are_drawn_alike_and_oneself_never(num_samples: int) -> None:
    index = torch.tensor([0, 1, num_samples - 1])
    drawn = draw_others(index, 20000, num_samples, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 20000)
    for own, row in zip(index.tolist(), drawn, strict=True):
        shares = torch.bincount(row, minlength=num_samples) / 20000
        expected = torch.full((num_samples,), 1 / (num_samples - 1))
        expected[own] = 0
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.02)
        assert shares[own] == 0
        assert len(shares) == num_samples
