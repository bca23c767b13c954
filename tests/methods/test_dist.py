from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.methods.dist import CorrelationConfig, StrongerTeacher, correlation_distance
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
MakeLosses = Callable[..., Losses]


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    setup = make_setup("resnet8", "resnet14")

    def build(student: Tensor, teacher: Tensor, **options: float) -> Losses:
        method = StrongerTeacher(CorrelationConfig(**options), setup)
        return method.losses(make_step(LABELS, Outputs(logits=student), Outputs(logits=teacher)))

    return build


def pearson(left: Tensor, right: Tensor) -> Tensor:
    """Return covariance / (deviation * deviation) of two vectors."""
    left, right = left - left.sum() / len(left), right - right.sum() / len(right)
    return (left * right).sum() / ((left**2).sum() * (right**2).sum()).sqrt()


def plain_loss(student: Tensor, teacher: Tensor, *, beta: float, gamma: float, temperature: float) -> Tensor:
    """Restate CE + T^2 * (beta * inter + gamma * intra) row by row and column by column, in float64."""
    p_s, p_t = ((z.double() / temperature).exp() for z in (student, teacher))
    p_s, p_t = (p / p.sum(dim=1, keepdim=True) for p in (p_s, p_t))
    inter = 1 - sum(pearson(p_s[b], p_t[b]) for b in range(6)) / 6
    intra = 1 - sum(pearson(p_s[:, k], p_t[:, k]) for k in range(5)) / 5
    probability = (student.double().exp() / student.double().exp().sum(dim=1, keepdim=True))[range(6), LABELS]
    return -probability.log().mean() + temperature**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize(
    ("beta", "gamma", "temperature"), [(2.0, 2.0, 4.0), (1.0, 1.0, 1.0), (0.0, 3.0, 4.0), (3.0, 0.0, 4.0)]
)
def test_value_and_gradient_are_those_of_the_formula(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor], beta: float, gamma: float, temperature: float
) -> None:
    student, teacher = logits
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    total = losses_of(ours, teacher, beta=beta, gamma=gamma, temperature=temperature).total()
    expected = plain_loss(plain, teacher, beta=beta, gamma=gamma, temperature=temperature)
    total.backward()
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-5)


def test_by_default_it_is_the_authors_setting_for_cifar(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    expected = plain_loss(*logits, beta=2.0, gamma=2.0, temperature=4.0)
    assert losses_of(*logits).total().item() == pytest.approx(expected.item(), rel=1e-5)


def test_scale_and_shift_of_a_row_do_not_matter() -> None:
    rows = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    moved = rows * torch.tensor([[2.0], [0.1], [30.0]]) + torch.tensor([[1.0], [-5.0], [0.0]])
    assert correlation_distance(moved, rows).item() == pytest.approx(0.0, abs=1e-6)
    assert correlation_distance(-moved, rows).item() == pytest.approx(2.0, abs=1e-6)


def test_a_class_that_nobody_tells_apart_gives_no_gradient() -> None:
    rows = torch.stack([torch.full((6,), 0.2), torch.rand(6, generator=torch.Generator().manual_seed(0))])
    rows.requires_grad_()
    distance = correlation_distance(rows, torch.rand(2, 6, generator=torch.Generator().manual_seed(1)))
    distance.backward()
    assert distance.isfinite()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert rows.grad[0].abs().max() == 0
    assert rows.grad[1].abs().max() > 0


def test_a_relation_without_weight_is_not_there(losses_of: MakeLosses, logits: tuple[Tensor, Tensor]) -> None:
    assert list(losses_of(*logits).terms()) == ["task", "inter", "intra"]
    assert list(losses_of(*logits, beta=0.0, ce_weight=0.0).terms()) == ["intra"]


def test_with_weights_that_leave_nothing_to_distil_it_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to distil"):
        CorrelationConfig(beta=0.0, gamma=0.0)
