from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdctl.losses.inversion_terms import agreed_divergence, instance_contrast
from kdctl.losses.vectors import unit_vectors


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_counts_only_where_both_decide_alike() -> None:
    student, teacher = (3 * drawn(12, 5, seed=seed) for seed in (0, 1))
    teacher[:4] = 2 * student[:4] + 0.1 * teacher[:4]
    ours, twin = student.clone().requires_grad_(), student.double().requires_grad_()
    found = agreed_divergence(ours, teacher)
    found.backward()

    expected, agreeing = torch.zeros((), dtype=torch.float64), 0
    for own, other in zip(twin, teacher.double(), strict=True):
        p, q = torch.softmax(other, dim=0), torch.softmax(own, dim=0)
        if p.argmax() == q.argmax():
            agreeing += 1
            expected = expected + (p * (p / q).log()).sum() / 12
    expected.backward()
    assert 4 <= agreeing < 12
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, twin.grad, rtol=1e-4, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("num_negatives", [0, 7])
def test_the_contrast_and_its_gradient_are_those_of_the_formula(num_negatives: int) -> None:
    vectors = [drawn(count, 4, seed=seed) for seed, count in enumerate((6, 6, num_negatives))]
    ours = [tensor.clone().requires_grad_() for tensor in vectors]
    found = instance_contrast(*(unit_vectors(tensor) for tensor in ours), 0.3)
    found.backward()

    twins = [tensor.double().requires_grad_() for tensor in vectors]
    anchors, positives, negatives = (tensor / tensor.norm(dim=1, keepdim=True) for tensor in twins)
    total = torch.zeros((), dtype=torch.float64)
    for place, anchor in enumerate(anchors):
        scores = torch.cat([positives @ anchor, negatives @ anchor]) / 0.3
        total = total - (scores[place].exp() / scores.exp().sum()).log()
    (total / 6).backward()
    assert found.item() == pytest.approx(total.item() / 6, rel=1e-5)
    for own, twin in zip(ours, twins, strict=True):
        torch.testing.assert_close(own.grad, twin.grad, rtol=1e-4, atol=1e-6, check_dtype=False)
