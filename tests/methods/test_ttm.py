from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.methods.ttm import TransformedTeacherConfig, TransformedTeacherMatching
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])

MakeLosses = Callable[..., Losses]


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    def build(student: Tensor, teacher: Tensor, **options: Any) -> Losses:
        method = TransformedTeacherMatching(
            TransformedTeacherConfig(**options), make_setup("resnet8", "resnet14")
        )
        return method.losses(make_step(LABELS, Outputs(logits=student), Outputs(logits=teacher)))

    return build


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_the_formula(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor], *, weighted: bool
) -> None:
    """Restated with powers of probabilities, as the paper writes it."""
    ours, plain = logits[0].clone().requires_grad_(), logits[0].double().requires_grad_()
    loss = losses_of(ours, logits[1], weighted=weighted).transfer["ttm"]
    loss.backward()

    gamma, total = 1 / 10, torch.zeros((), dtype=torch.float64)
    for own, other in zip(plain, logits[1].double(), strict=True):
        powers = torch.softmax(other, dim=0) ** gamma
        target, predicted = powers / powers.sum(), torch.softmax(own, dim=0)
        divergence = sum(p * (p.log() - q.log()) for p, q in zip(target, predicted, strict=True))
        total = total + (powers.sum() if weighted else 1.0) * divergence
    expected = 45 * total / 6
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_weights_lie_between_one_and_the_number_of_classes_to_a_power(losses_of: MakeLosses) -> None:
    """A sure teacher counts once, one that knows nothing K^(1 - 1/T) times."""
    student = torch.zeros(6, 5)
    student[:, 0] = 1.0
    for teacher, weight in ((torch.zeros(6, 5), 5 ** (1 - 1 / 4)), (1e4 * torch.eye(5)[LABELS], 1.0)):
        plain, weighted = (
            losses_of(student, teacher, temperature=4.0, weighted=choice).transfer["ttm"].item()
            for choice in (False, True)
        )
        assert weighted == pytest.approx(weight * plain, rel=1e-5)


def test_a_student_that_is_the_softened_teacher_is_a_perfect_one(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    student = (logits[1] / 10).requires_grad_()
    loss = losses_of(student + 3.0, logits[1]).transfer["ttm"]
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


def test_a_teacher_beyond_all_doubt_gives_finite_numbers(losses_of: MakeLosses) -> None:
    student = torch.zeros(6, 5, requires_grad=True)
    loss = losses_of(student, 1e5 * torch.eye(5)[LABELS], weighted=True).total()
    loss.backward()
    assert math.isfinite(loss.item())
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_labels_can_be_left_out(losses_of: MakeLosses, logits: tuple[Tensor, Tensor]) -> None:
    assert list(losses_of(*logits).terms()) == ["task", "ttm"]
    assert list(losses_of(*logits, ce_weight=0.0).terms()) == ["ttm"]
