from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.methods.aver import AveragedTeachers, AveragedTeachersConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 1, 2, 3])

MakeLosses = Callable[..., Losses]


@pytest.fixture
def three() -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [3 * torch.randn(4, 5, generator=random) for _ in range(3)]


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    def build(student: Tensor, teachers: list[Tensor], **options: Any) -> Losses:
        setup = make_setup("resnet8", *(["resnet8"] * len(teachers)))
        method = AveragedTeachers(AveragedTeachersConfig(**options), setup)
        outputs = [Outputs(logits=logits) for logits in (student, *teachers)]
        return method.losses(make_step(LABELS, *outputs))

    return build


def plain_kl(target: Tensor, logits: Tensor) -> Tensor:
    """Restate T^2 * KL for probabilities `target` [B, K] and logits at T = 4."""
    rows = [(p * (p.log() - (z / 4).softmax(dim=0).log())).sum() for p, z in zip(target, logits, strict=True)]
    return 16 * sum(rows) / len(rows)


@pytest.mark.parametrize("mean_of", ["divergences", "probabilities"])
def test_value_and_gradient_are_those_of_the_formula(
    losses_of: MakeLosses, three: list[Tensor], mean_of: str
) -> None:
    start = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    ours, plain = start.clone().requires_grad_(), start.double().requires_grad_()
    loss = losses_of(ours, three, mean_of=mean_of, kd_weight=0.9).transfer["kd"]
    loss.backward()
    targets = [(logits.double() / 4).softmax(dim=1) for logits in three]
    if mean_of == "divergences":
        expected = 0.9 * sum(plain_kl(target, plain) for target in targets) / 3
    else:
        expected = 0.9 * plain_kl(sum(targets) / 3, plain)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_both_means_have_the_same_gradient_and_not_the_same_value(
    losses_of: MakeLosses, three: list[Tensor]
) -> None:
    values, gradients = [], []
    for mean_of in ("divergences", "probabilities"):
        student = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss = losses_of(student, three, mean_of=mean_of).transfer["kd"]
        loss.backward()
        values.append(loss.item())
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients)
    assert values[0] > values[1] + 0.1


@pytest.mark.parametrize("mean_of", ["divergences", "probabilities"])
def test_teachers_of_one_mind_are_one_teacher(
    losses_of: MakeLosses, three: list[Tensor], mean_of: str
) -> None:
    student = torch.zeros(4, 5)
    alone = plain_kl((three[0].double() / 4).softmax(dim=1), student.double()).item()
    loss = losses_of(student, [three[0]] * 4, mean_of=mean_of).transfer["kd"]
    assert loss.item() == pytest.approx(alone, rel=1e-5)


def test_labels_can_be_left_out(losses_of: MakeLosses, three: list[Tensor]) -> None:
    assert list(losses_of(torch.zeros(4, 5), three).terms()) == ["task", "kd"]
    assert list(losses_of(torch.zeros(4, 5), three, ce_weight=0.0).terms()) == ["kd"]
