from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.losses.several_teachers import SeveralTeachers
from kdctl.methods.ebkd import EntropyBasedDistillation
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 1, 2, 3])

MakeLosses = Callable[..., Losses]


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    def build(student: Tensor, *teachers: Tensor) -> Losses:
        method = EntropyBasedDistillation(
            SeveralTeachers(), make_setup("resnet8", *(["resnet8"] * len(teachers)))
        )
        return method.losses(make_step(LABELS, *(Outputs(logits=one) for one in (student, *teachers))))

    return build


def test_value_and_gradient_are_those_of_the_formula(losses_of: MakeLosses) -> None:
    random = torch.Generator().manual_seed(0)
    start = torch.randn(4, 5, generator=random)
    teachers = [scale * torch.randn(4, 5, generator=random) for scale in (1.0, 2.0, 4.0)]
    ours, plain = start.clone().requires_grad_(), start.double().requires_grad_()
    loss = losses_of(ours, *teachers).transfer["kd"]
    loss.backward()

    expected = torch.zeros((), dtype=torch.float64)
    for b in range(4):
        sharp = [one[b].double().softmax(dim=0) for one in teachers]
        entropies = [-(p * p.log()).sum() for p in sharp]
        for one, entropy in zip(teachers, entropies, strict=True):
            p, q = (one[b].double() / 4).softmax(dim=0), (plain[b] / 4).softmax(dim=0)
            expected = expected + (1 - entropy / sum(entropies)) * 16 * (p * (p / q).log()).sum()
    expected = expected / (4 * 3)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_a_teacher_in_doubt_counts_less(losses_of: MakeLosses) -> None:
    sure, unsure = 9 * torch.eye(5)[:4], torch.zeros(4, 5)
    metrics = losses_of(torch.zeros(4, 5), sure, unsure).metrics
    assert metrics["weight_1"].item() > 0.99
    assert metrics["weight_2"].item() < 0.01


def test_teachers_beyond_all_doubt_count_alike(losses_of: MakeLosses) -> None:
    losses = losses_of(
        torch.zeros(4, 5), *(1e4 * torch.eye(5)[rows] for rows in ([0, 1, 2, 3], [1, 2, 3, 4]))
    )
    assert losses.total().isfinite()
    assert losses.metrics["weight_1"].item() == losses.metrics["weight_2"].item() == 0.5
