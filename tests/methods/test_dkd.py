from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdctl.losses.soft_targets import soft_target_kl
from kdctl.methods.dkd import DecoupledConfig, DecoupledKnowledgeDistillation
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
MakeLosses = Callable[..., Losses]


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    setup = make_setup("resnet8", "resnet14")

    def build(student: Tensor, teacher: Tensor, *, progress: float = 1.0, **options: float) -> Losses:
        method = DecoupledKnowledgeDistillation(DecoupledConfig(**options), setup)
        step = make_step(LABELS, Outputs(logits=student), Outputs(logits=teacher))
        return method.losses(dataclasses.replace(step, progress=torch.tensor(progress)))

    return build


def plain_loss(student: Tensor, teacher: Tensor, *, alpha: float, beta: float, temperature: float) -> Tensor:
    """Restate CE + T^2 * (alpha * TCKD + beta * NCKD) sample by sample, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for own, other, label in zip(student.double(), teacher.double(), LABELS.tolist(), strict=True):
        p, q = (z.exp() / z.exp().sum() for z in (other / temperature, own / temperature))
        rest = [k for k in range(5) if k != label]
        tckd = p[label] * (p[label] / q[label]).log() + p[rest].sum() * (p[rest].sum() / q[rest].sum()).log()
        p, q = p[rest] / p[rest].sum(), q[rest] / q[rest].sum()
        nckd = (p * (p / q).log()).sum()
        cross_entropy = own.exp().sum().log() - own[label]
        total = total + cross_entropy + temperature**2 * (alpha * tckd + beta * nckd)
    return total / len(LABELS)


@pytest.mark.parametrize(
    ("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (1.0, 0.5, 1.0), (0.0, 2.0, 4.0), (2.0, 0.0, 4.0)]
)
def test_value_and_gradient_are_those_of_the_formula(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor], alpha: float, beta: float, temperature: float
) -> None:
    student, teacher = logits
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    total = losses_of(ours, teacher, alpha=alpha, beta=beta, temperature=temperature).total()
    expected = plain_loss(plain, teacher, alpha=alpha, beta=beta, temperature=temperature)
    total.backward()
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_by_default_it_is_the_authors_setting(losses_of: MakeLosses, logits: tuple[Tensor, Tensor]) -> None:
    expected = plain_loss(*logits, alpha=1.0, beta=8.0, temperature=4.0)
    assert losses_of(*logits).total().item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_part_without_weight_is_not_there(losses_of: MakeLosses, logits: tuple[Tensor, Tensor]) -> None:
    assert list(losses_of(*logits).terms()) == ["task", "tckd", "nckd"]
    assert list(losses_of(*logits, alpha=0.0, ce_weight=0.0).terms()) == ["nckd"]
    assert list(losses_of(*logits, beta=0.0).terms()) == ["task", "tckd"]


def test_with_weights_that_leave_nothing_to_distil_it_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to distil"):
        DecoupledConfig(alpha=0.0, beta=0.0)


def test_the_parts_grow_over_the_first_twelfth_of_training(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    full = losses_of(*logits).terms()
    for epoch in (0, 5, 10, 20, 21, 240):
        terms = losses_of(*logits, progress=epoch / 240).terms()
        growth = min(epoch / 20, 1.0)
        assert terms["task"].item() == full["task"].item()
        for name in ("tckd", "nckd"):
            assert terms[name].item() == pytest.approx(growth * full[name].item(), rel=1e-5)
    assert losses_of(*logits, progress=0.0, warmup_share=0.0).total() == losses_of(*logits).total()


def test_it_is_kd_where_beta_is_the_teachers_doubt(losses_of: MakeLosses) -> None:
    """With one and the same doubt for all samples, that beta gives plain KD."""
    random = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(6, 5, generator=random), torch.randn(6, 5, generator=random)
    others = torch.arange(5) != LABELS[:, None]
    rest = teacher.masked_fill(~others, -torch.inf).logsumexp(dim=1, keepdim=True)
    teacher = torch.where(others, teacher, rest)  # as probable as all others together
    terms = losses_of(student, teacher, alpha=1.0, beta=0.5, temperature=1.0).transfer
    together = terms["tckd"] + terms["nckd"]
    assert together.item() == pytest.approx(soft_target_kl(student, teacher, 1.0).item(), rel=1e-5)


def test_a_student_that_equals_its_teacher_learns_from_the_labels_alone(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    student = logits[1].clone().requires_grad_()
    losses_of(student, logits[1]).total().backward()
    alone = logits[1].clone().requires_grad_()
    functional.cross_entropy(alone, LABELS).backward()
    torch.testing.assert_close(student.grad, alone.grad, rtol=1e-4, atol=1e-5)


def test_standardised_logits_are_compared_on_one_scale(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    ours, plain = logits[0].clone().requires_grad_(), logits[0].double().requires_grad_()
    losses = losses_of(ours, logits[1], standardise=True, alpha=9.0, beta=72.0, temperature=2.0)
    losses.total().backward()
    own, other = (
        (z - z.mean(dim=1, keepdim=True)) / z.std(dim=1, keepdim=True) for z in (plain, logits[1].double())
    )
    expected = plain_loss(own, other, alpha=9.0, beta=72.0, temperature=2.0)
    # Labels are held against the logits as they are.
    expected = expected + functional.cross_entropy(plain, LABELS) - functional.cross_entropy(own, LABELS)
    expected.backward()
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-4, check_dtype=False)
