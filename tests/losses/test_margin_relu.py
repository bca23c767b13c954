from __future__ import annotations

import math

import pytest
import torch

from kdctl.losses.margin_relu import expected_negative, measured_negative, partial_l2


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, 0.5), (-1.3, 2.0), (4.0, 1.0)])
def test_the_margin_is_the_mean_of_a_normal_variable_where_it_is_negative(
    mean: float, deviation: float
) -> None:
    """By summing x * pdf(x) over a fine grid below zero."""
    grid = torch.arange(-40.0, 0.0, 1e-4, dtype=torch.float64)
    density = (-((grid - mean) ** 2) / (2 * deviation**2)).exp()
    expected = (grid * density).sum() / density.sum()
    margin = expected_negative(torch.tensor(mean), torch.tensor(deviation))
    assert margin.item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_margin_stays_finite_and_not_above_zero_at_the_edges() -> None:
    means = torch.tensor([100.0, 1e6, -100.0, 0.0, 3.0, -3.0])
    deviations = torch.tensor([1.0, 1e-3, 1e-3, 0.0, 0.0, 0.0])
    margins = expected_negative(means, deviations)
    expected = torch.tensor([-1 / 30, 0.0, -100.0, 0.0, 0.0, -3.0], dtype=torch.float64)
    torch.testing.assert_close(margins, expected, rtol=1e-2, atol=1e-4)
    assert (margins <= 0).all()


def test_many_samples_measure_what_the_batch_norm_tells() -> None:
    features = 0.5 + 2.0 * torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    measured = measured_negative(features)
    assert measured.shape == (1, 1, 1, 1)
    assert measured.item() == pytest.approx(
        expected_negative(torch.tensor(0.5), torch.tensor(2.0)).item(), rel=0.02
    )


def test_a_channel_without_negative_values_has_margin_zero() -> None:
    features = torch.tensor([[1.0, -2.0], [3.0, -4.0]])[:, :, None, None]
    assert measured_negative(features).flatten().tolist() == [0.0, -3.0]


def test_partial_l2_forgives_what_lies_below_a_target_that_is_not_positive() -> None:
    cases = [  # student, teacher, counted
        (-3.0, -1.0, 0.0),
        (-0.5, -1.0, 0.25),
        (2.0, -1.0, 9.0),
        (-3.0, 1.0, 16.0),
        (0.5, 1.0, 0.25),
        (2.0, 1.0, 1.0),
        (-1.0, 0.0, 0.0),
    ]
    for own, other, counted in cases:
        student, teacher = (torch.full((3, 2, 2, 2), value) for value in (own, other))
        assert partial_l2(student, teacher).item() == pytest.approx(8 * counted), (own, other)


def test_partial_l2_is_a_mean_over_samples_of_sums_with_gradient_only_where_it_counts() -> None:
    random = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, 2, 2, generator=random).requires_grad_()
    teacher = torch.randn(3, 4, 2, 2, generator=random)
    total = math.fsum(
        (s - t) ** 2
        for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
        if not s <= t <= 0
    )
    loss = partial_l2(student, teacher)
    assert loss.item() == pytest.approx(total / 3, rel=1e-5)
    loss.backward()
    assert student.grad is not None
    forgiven = (student <= teacher) & (teacher <= 0)
    expected = torch.where(forgiven, 0.0, 2 * (student - teacher) / 3)
    torch.testing.assert_close(student.grad, expected)
