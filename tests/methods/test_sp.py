from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.methods.sp import SimilarityPreserving, SimilarityPreservingConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

MakeLosses = Callable[..., Losses]


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    """The last maps of a ResNet-8, [5, 64, 4, 4], and of a VGG-8, [5, 512, 2, 2]."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(5, 64, 4, 4, generator=random), torch.randn(5, 512, 2, 2, generator=random).relu()


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    setup = make_setup("resnet8", "vgg8")

    def build(student: Tensor, teacher: Tensor, **options: float) -> Losses:
        method = SimilarityPreserving(SimilarityPreservingConfig(**options), setup)
        logits = torch.zeros(len(student), 5)
        step = make_step(
            torch.arange(len(student)) % 5,
            Outputs(logits=logits, taps={"stage3": student}),
            Outputs(logits=logits if method.reads_teacher_logits else None, taps={"stage4": teacher}),
        )
        return method.losses(step)

    return build


def plain_similarities(features: Tensor) -> Tensor:
    """Restate the inner products of all samples, each row divided by its length."""
    flat = [sample.flatten() for sample in features]
    rows = [torch.stack([own @ other for other in flat]) for own in flat]
    return torch.stack([row / (row @ row).sqrt() for row in rows])


def test_value_and_gradient_are_those_of_the_formula(
    losses_of: MakeLosses, maps: tuple[Tensor, Tensor]
) -> None:
    ours, plain = maps[0].clone().requires_grad_(), maps[0].double().requires_grad_()
    loss = losses_of(ours, maps[1]).transfer["sp"]
    expected = 3000 / 5**2 * (plain_similarities(maps[1].double()) - plain_similarities(plain)).pow(2).sum()
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-4, check_dtype=False)


def test_a_student_that_is_turned_and_scaled_is_a_perfect_one(
    losses_of: MakeLosses, maps: tuple[Tensor, Tensor]
) -> None:
    _, teacher = maps
    turn, _ = torch.linalg.qr(torch.randn(512, 512, generator=torch.Generator().manual_seed(1)))
    student = 0.2 * torch.einsum("bchw,cd->bdhw", teacher, turn)
    assert losses_of(student, teacher).transfer["sp"].item() == pytest.approx(0.0, abs=1e-7)


def test_the_order_of_the_samples_does_not_matter(losses_of: MakeLosses, maps: tuple[Tensor, Tensor]) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    before = losses_of(*maps).transfer["sp"].item()
    after = losses_of(maps[0][order], maps[1][order]).transfer["sp"].item()
    assert after == pytest.approx(before, rel=1e-5)


def test_similarities_keep_their_digits_under_autocast(
    losses_of: MakeLosses, maps: tuple[Tensor, Tensor]
) -> None:
    exact = losses_of(*maps).transfer["sp"].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert losses_of(*maps).transfer["sp"].item() == pytest.approx(exact, rel=1e-6)


def test_it_stands_beside_the_terms_of_the_predictions(
    losses_of: MakeLosses, maps: tuple[Tensor, Tensor]
) -> None:
    assert list(losses_of(*maps).terms()) == ["task", "kd", "sp"]
    assert list(losses_of(*maps, kd_weight=0.0).terms()) == ["task", "sp"]
