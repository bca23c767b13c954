from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.methods.deit import DeitConfig, DeitDistillation
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Restate the mean of -log p(y), in float64."""
    return -logits.double().softmax(dim=1)[range(len(labels)), labels].log().mean()


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> Callable[..., Losses]:
    def build(heads: Tensor, teacher: Tensor, **options: object) -> Losses:
        method = DeitDistillation(DeitConfig(**options), make_setup("resnet8", "resnet14"))  # type: ignore[arg-type]
        method._has_two_heads = heads.shape[1] == 10
        own, taught = heads.chunk(2, dim=1) if method._has_two_heads else (heads, heads)
        student = Outputs(logits=(own + taught) / 2, taps={"heads": heads})
        return method.losses(make_step(LABELS, student, Outputs(logits=teacher)))

    return build


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_each_head_has_its_own_labels(
    losses_of: Callable[..., Losses], logits: tuple[Tensor, Tensor], alpha: float
) -> None:
    own, teacher = logits
    taught = own.flip(0)
    found = losses_of(torch.cat([own, taught], dim=1), teacher, alpha=alpha).total()
    expected = (1 - alpha) * cross_entropy(own, LABELS) + alpha * cross_entropy(taught, teacher.argmax(dim=1))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_soft_labels_are_those_of_hinton(
    losses_of: Callable[..., Losses], logits: tuple[Tensor, Tensor]
) -> None:
    own, teacher = logits
    p, q = ((values.double() / 3).softmax(dim=1) for values in (teacher, own.flip(0)))
    expected = 0.5 * cross_entropy(own, LABELS) + 0.5 * 9 * (p * (p / q).log()).sum() / len(LABELS)
    found = losses_of(torch.cat([own, own.flip(0)], dim=1), teacher, hard=False, temperature=3.0).total()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_with_one_head_gets_both_on_it(
    losses_of: Callable[..., Losses], logits: tuple[Tensor, Tensor]
) -> None:
    own, teacher = logits
    expected = 0.5 * cross_entropy(own, LABELS) + 0.5 * cross_entropy(own, teacher.argmax(dim=1))
    assert losses_of(own, teacher).total().item() == pytest.approx(expected.item(), rel=1e-5)


def test_heads_are_read_where_the_student_has_two(make_setup: Callable[..., Setup]) -> None:
    assert DeitDistillation(DeitConfig(), make_setup("resnet8", "resnet14")).student_taps == ()
