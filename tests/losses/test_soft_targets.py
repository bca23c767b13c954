from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdctl.losses.soft_targets import other_classes_kl, soft_target_kl, standardised, target_class_kl


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Student's and teacher's, [5, 7]."""
    random = torch.Generator().manual_seed(0)
    return 3 * torch.randn(5, 7, generator=random), 5 * torch.randn(5, 7, generator=random)


def plain_softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def plain_kl(student: Tensor, teacher: Tensor, temperature: float) -> tuple[float, Tensor]:
    """Return the loss of arXiv:1503.02531 and its gradient T / B * (p_s - p_t), term by term."""
    total, gradient = 0.0, torch.zeros(student.shape, dtype=torch.float64)
    for row, (own, other) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        p_s, p_t = plain_softmax(own, temperature), plain_softmax(other, temperature)
        total += sum(q * math.log(q / p) for p, q in zip(p_s, p_t, strict=True))
        gradient[row] = torch.tensor([p - q for p, q in zip(p_s, p_t, strict=True)], dtype=torch.float64)
    return temperature**2 * total / len(student), gradient * temperature / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_value_and_gradient_are_those_of_the_formula(
    logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    student, teacher = logits
    student.requires_grad_()
    loss = soft_target_kl(student, teacher, temperature)
    loss.backward()
    value, gradient = plain_kl(student.detach(), teacher, temperature)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert student.grad is not None
    torch.testing.assert_close(student.grad.double(), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 4.0, 50.0])
def test_it_is_zero_with_zero_gradient_when_student_equals_teacher(
    logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    _, teacher = logits
    student = (teacher + 3.0).requires_grad_()  # a constant does not change a softmax
    loss = soft_target_kl(student, teacher, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient(logits: tuple[Tensor, Tensor]) -> None:
    """At high T the gradient tends to (z_s - z_t) / (B * K), logits centred: eq. 4 of the paper."""
    student, teacher = logits
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    student.requires_grad_()
    for temperature, tolerance in ((100.0, 0.1), (1000.0, 0.01)):
        student.grad = None
        soft_target_kl(student, teacher, temperature).backward()
        assert student.grad is not None
        error = (student.grad - centred.detach() / centred.numel()).norm() / student.grad.norm()
        assert error < tolerance


def test_it_does_not_depend_on_how_a_batch_is_put_together(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    rows = [soft_target_kl(student[row : row + 1], teacher[row : row + 1], 4.0) for row in range(5)]
    torch.testing.assert_close(soft_target_kl(student, teacher, 4.0), torch.stack(rows).mean())


def test_extreme_logits_stay_finite() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = soft_target_kl(student, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2e4, rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_half_precision_logits_are_compared_in_fp32(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = (value.bfloat16() for value in logits)
    loss = soft_target_kl(student, teacher, 4.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, soft_target_kl(student.float(), teacher.float(), 4.0))


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


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.fixture
def decoupled_logits() -> tuple[Tensor, Tensor]:
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
    decoupled_logits: tuple[Tensor, Tensor], part: int, temperature: float
) -> None:
    student, teacher = decoupled_logits
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    value = (target_class_kl, other_classes_kl)[part](ours, teacher, LABELS, temperature)
    expected = plain_parts(plain, teacher, temperature)[part]
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_parts_make_up_the_divergence_sample_by_sample(
    decoupled_logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    for row, label in enumerate(LABELS):
        student, teacher = (z[row : row + 1] for z in decoupled_logits)
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


def test_the_other_classes_do_not_see_the_labels_logit(decoupled_logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = decoupled_logits
    shifted = student + 100 * torch.nn.functional.one_hot(LABELS, 5)
    before = other_classes_kl(student, teacher, LABELS, 4.0)
    assert other_classes_kl(shifted, teacher, LABELS, 4.0).item() == pytest.approx(before.item(), rel=1e-5)


def test_of_two_classes_there_is_one_other_and_nothing_to_tell_apart() -> None:
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert other_classes_kl(student, teacher, torch.tensor([1]), 4.0).item() == 0.0
