from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.methods.pkt import (
    ProbabilisticKnowledgeTransfer,
    ProbabilisticTransferConfig,
    neighbour_probabilities,
    neighbourhood_divergence,
)
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2, 2, 1])


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    """Student's [5, 4] and teacher's [5, 7]."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=random), 3 * torch.randn(5, 7, generator=random)


def plain_probabilities(features: Tensor) -> Tensor:
    """Restate (cos + 1) / 2 over its row's sum pair by pair, in float64."""
    count = len(features)
    rows = []
    for i in range(count):
        row = []
        for j in range(count):
            a, b = features[i].double(), features[j].double()
            row.append(((a @ b) / ((a @ a).sqrt() * (b @ b).sqrt()) + 1) / 2)
        rows.append(torch.stack(row) / torch.stack(row).sum())
    return torch.stack(rows)


def test_value_and_gradient_are_those_of_the_formula(
    make_setup: Callable[..., Setup], make_step: Callable[..., Step], features: tuple[Tensor, Tensor]
) -> None:
    student, teacher = features
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    config = ProbabilisticTransferConfig(kd_weight=0.0)
    method = ProbabilisticKnowledgeTransfer(config, make_setup("resnet8", "resnet14"))
    step = make_step(
        LABELS,
        Outputs(logits=torch.zeros(5, 5), taps={"pooled": ours}),
        Outputs(logits=None, taps={"pooled": teacher}),
    )
    losses = method.losses(step)
    p, q = plain_probabilities(teacher), plain_probabilities(plain)
    expected = 30000 * (p * ((p + 1e-7) / (q + 1e-7)).log()).sum() / 25
    losses.transfer["pkt"].backward()
    expected.backward()
    assert list(losses.terms()) == ["task", "pkt"]
    assert not method.reads_teacher_logits
    assert losses.transfer["pkt"].item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-4)


def test_length_and_width_of_vectors_do_not_matter(features: tuple[Tensor, Tensor]) -> None:
    student, _ = features
    turned = torch.cat([student, torch.zeros(5, 3)], dim=1) * torch.tensor(
        [[1.0], [2.0], [9.0], [0.1], [5.0]]
    )
    assert neighbourhood_divergence(student, turned).item() == pytest.approx(0.0, abs=1e-7)


def test_probabilities_sum_to_1_and_prefer_the_like(features: tuple[Tensor, Tensor]) -> None:
    probabilities = neighbour_probabilities(features[0])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(5))
    assert torch.equal(probabilities.argmax(dim=1), torch.arange(5))


def test_opposite_and_vanishing_vectors_give_finite_gradients() -> None:
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    divergence = neighbourhood_divergence(student, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    divergence.backward()
    assert divergence.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_likeness_too_faint_for_bf16_is_seen_under_autocast() -> None:
    """Vectors that differ in the fourth digit: bf16 products would call them all the same."""
    random = torch.Generator().manual_seed(0)
    student, teacher = (1 + 0.02 * torch.randn(6, 16, generator=random) for _ in range(2))
    exact = neighbour_probabilities(student.double()) - neighbour_probabilities(teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = neighbour_probabilities(student) - neighbour_probabilities(teacher)
    assert (ours - exact).abs().max() < 0.01 * exact.abs().max()
