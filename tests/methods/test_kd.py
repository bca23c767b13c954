from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.methods.kd import KdConfig, KnowledgeDistillation
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
MakeLosses = Callable[..., Losses]


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    def build(student: Tensor, teacher: Tensor, **options: float) -> Losses:
        method = KnowledgeDistillation(KdConfig(**options), make_setup("resnet8", "resnet14"))
        return method.losses(make_step(LABELS, Outputs(logits=student), Outputs(logits=teacher)))

    return build


def plain_loss(student: Tensor, teacher: Tensor, temperature: float, kd: float, ce: float) -> Tensor:
    """Restate ce * CE(z_s, y) + kd * T^2 * KL(p_t || p_s), in float64."""
    p_s, p_t = ((z.double() / temperature).exp() for z in (student, teacher))
    p_s, p_t = (p / p.sum(dim=1, keepdim=True) for p in (p_s, p_t))
    divergence = (p_t * (p_t / p_s).log()).sum() / len(student)
    probability = (student.double().exp() / student.double().exp().sum(dim=1, keepdim=True))[range(6), LABELS]
    return ce * -probability.log().mean() + kd * temperature**2 * divergence


@pytest.mark.parametrize(
    ("temperature", "kd", "ce"),
    [(4.0, 1.0, 1.0), (4.0, 0.9, 0.1), (1.0, 0.5, 0.5), (8.0, 3.0, 0.0)],
    ids=["protocol simkd", "protocol crd", "T = 1", "no labels"],
)
def test_value_and_gradient_are_those_of_the_formula(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor], temperature: float, kd: float, ce: float
) -> None:
    student, teacher = logits
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    total = losses_of(ours, teacher, temperature=temperature, kd_weight=kd, ce_weight=ce).total()
    expected = plain_loss(plain, teacher, temperature, kd, ce)
    total.backward()
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_by_default_it_is_the_protocol_of_simkd(losses_of: MakeLosses, logits: tuple[Tensor, Tensor]) -> None:
    expected = plain_loss(*logits, temperature=4.0, kd=1.0, ce=1.0)
    assert losses_of(*logits).total().item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_weight_on_the_labels_they_do_not_matter(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    losses = losses_of(*logits, ce_weight=0.0)
    assert losses.task is None
    assert list(losses.terms()) == ["kd"]


def test_a_student_that_equals_its_teacher_learns_from_the_labels_alone(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    student, _ = logits
    student.requires_grad_()
    losses = losses_of(student, student.detach())
    losses.transfer["kd"].backward()
    assert losses.transfer["kd"].item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    norms = []
    for temperature in (10.0, 100.0):
        student = logits[0].clone().requires_grad_()
        losses_of(student, logits[1], temperature=temperature).transfer["kd"].backward()
        assert student.grad is not None
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_terms_are_logged_with_their_weights(losses_of: MakeLosses, logits: tuple[Tensor, Tensor]) -> None:
    plain, weighted = losses_of(*logits), losses_of(*logits, kd_weight=2.0, ce_weight=0.5)
    assert weighted.transfer["kd"].item() == pytest.approx(2 * plain.transfer["kd"].item())
    assert weighted.task is not None
    assert plain.task is not None
    assert weighted.task.item() == pytest.approx(0.5 * plain.task.item())
    assert torch.equal(weighted.logits, logits[0])


def test_standardised_logits_are_compared_on_one_scale(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    ours, plain = logits[0].clone().requires_grad_(), logits[0].double().requires_grad_()
    losses = losses_of(ours, logits[1], standardise=True, temperature=2.0, kd_weight=9.0, ce_weight=0.1)
    losses.total().backward()

    own, other = (
        (z - z.mean(dim=1, keepdim=True)) / z.std(dim=1, keepdim=True) for z in (plain, logits[1].double())
    )
    p, q = (other / 2).softmax(dim=1), (own / 2).softmax(dim=1)
    expected = 9 * 4 * (p * (p / q).log()).sum() / len(plain)
    # Labels are held against the logits as they are.
    expected = expected + 0.1 * torch.nn.functional.cross_entropy(plain, LABELS)
    expected.backward()
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-5, check_dtype=False)
    scaled = losses_of(7 * logits[0] + 1, logits[1], standardise=True, ce_weight=0.0)
    assert scaled.total().item() == pytest.approx(
        losses_of(*logits, standardise=True, ce_weight=0.0).total().item(), rel=1e-4
    )
