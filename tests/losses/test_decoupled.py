from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdctl.losses.decoupled import other_classes_kl, target_class_kl
from kdctl.losses.soft_targets import soft_target_kl

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Student's and teacher's, [6, 5]."""
    random = torch.Generator().manual_seed(0)
    return 2 * torch.randn(6, 5, generator=random), 4 * torch.randn(6, 5, generator=random)


def plain_parts(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Restate TCKD and NCKD sample by sample, in float64."""
    binary, among = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for own, other, label in zip(student.double(), teacher.double(), LABELS.tolist(), strict=True):
        p, q = ((z / temperature).exp() / (z / temperature).exp().sum() for z in (other, own))
        b = p[label] * (p[label] / q[label]).log() + (1 - p[label]) * ((1 - p[label]) / (1 - q[label])).log()
        binary = binary + b
        for k in range(5):
            if k != label:
                p_k, q_k = p[k] / (1 - p[label]), q[k] / (1 - q[label])
                among = among + p_k * (p_k / q_k).log()
    return temperature**2 * binary / len(student), temperature**2 * among / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("part", [0, 1], ids=["TCKD", "NCKD"])
def test_values_and_gradients_are_those_of_the_formulas(
    logits: tuple[Tensor, Tensor], part: int, temperature: float
) -> None:
    student, teacher = logits
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    value = (target_class_kl, other_classes_kl)[part](ours, teacher, LABELS, temperature)
    expected = plain_parts(plain, teacher, temperature)[part]
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_parts_make_up_the_divergence_sample_by_sample(
    logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    for row, label in enumerate(LABELS):
        student, teacher = (z[row : row + 1] for z in logits)
        one = label[None]
        rest = 1 - (teacher / temperature).softmax(dim=1)[0, label]
        binary = target_class_kl(student, teacher, one, temperature)
        among = other_classes_kl(student, teacher, one, temperature)
        whole = soft_target_kl(student, teacher, temperature)
        assert (binary + rest * among).item() == pytest.approx(whole.item(), rel=1e-4, abs=1e-6)


def test_a_teacher_that_is_sure_beyond_fp32_is_no_trouble() -> None:
    student = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0, 480.0]])
    label = torch.tensor([0])
    binary = target_class_kl(student, teacher, label, 1.0)
    among = other_classes_kl(student, teacher, label, 1.0)
    (binary + among).backward()
    assert binary.item() == pytest.approx(300.0, rel=1e-6)
    assert among.item() == pytest.approx(300 * math.exp(-20) - math.log1p(math.exp(-20)), rel=1e-3, abs=1e-6)
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[0, 0].item() == pytest.approx(1.0)


def test_the_other_classes_do_not_see_the_labels_logit(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    shifted = student + 100 * torch.nn.functional.one_hot(LABELS, 5)
    before = other_classes_kl(student, teacher, LABELS, 4.0)
    assert other_classes_kl(shifted, teacher, LABELS, 4.0).item() == pytest.approx(before.item(), rel=1e-5)


def test_of_two_classes_there_is_one_other_and_nothing_to_tell_apart() -> None:
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert other_classes_kl(student, teacher, torch.tensor([1]), 4.0).item() == 0.0
