from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.methods.rkd import (
    RelationalConfig,
    RelationalKnowledgeDistillation,
    angle_cosines,
    differences,
    relative_distances,
)
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 4, 2, 2, 1])
MakeLosses = Callable[..., Losses]


@pytest.fixture
def points() -> tuple[Tensor, Tensor]:
    """Student's [5, 4] and teacher's [5, 7]."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=random), 3 * torch.randn(5, 7, generator=random)


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    setup = make_setup("resnet8", "resnet14")

    def build(student: Tensor, teacher: Tensor, **options: float) -> Losses:
        method = RelationalKnowledgeDistillation(RelationalConfig(**options), setup)
        logits = torch.zeros(len(student), 5)
        step = make_step(
            LABELS[: len(student)],
            Outputs(logits=logits, taps={"pooled": student}),
            Outputs(logits=logits, taps={"pooled": teacher}),
        )
        return method.losses(step)

    return build


def huber(left: Tensor, right: Tensor) -> Tensor:
    gap = (left - right).abs()
    return gap**2 / 2 if gap <= 1 else gap - 0.5


def plain_distances(points: Tensor) -> dict[tuple[int, int], Tensor]:
    """Restate the distance of each two samples over the mean distance."""
    count = range(len(points))
    apart = {(i, j): (points[i] - points[j]).square().sum().sqrt() for i in count for j in count if i != j}
    mean = sum(apart.values()) / len(apart)
    return {pair: distance / mean for pair, distance in apart.items()}


def plain_cosine(points: Tensor, i: int, j: int, k: int) -> Tensor:
    """Restate the cosine of the angle at sample i between j and k."""
    a, b = points[j] - points[i], points[k] - points[i]
    return (a @ b) / ((a @ a).sqrt() * (b @ b).sqrt())


def plain_terms(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Restate both terms pair by pair and triple by triple, in float64, without weights."""
    student, teacher, count = student.double(), teacher.double(), len(student)
    ours, theirs = plain_distances(student), plain_distances(teacher)
    distance = sum(huber(ours[pair], theirs[pair]) for pair in ours)
    angle = torch.zeros((), dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            for k in range(count):
                if i not in (j, k):
                    angle = angle + huber(plain_cosine(student, i, j, k), plain_cosine(teacher, i, j, k))
    return distance / count**2, angle / count**3


def test_values_and_gradients_are_those_of_the_formulas(
    losses_of: MakeLosses, points: tuple[Tensor, Tensor]
) -> None:
    student, teacher = points
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    terms = losses_of(ours, teacher, kd_weight=0.0).transfer
    distance, angle = plain_terms(plain, teacher)
    (terms["rkd_distance"] + terms["rkd_angle"]).backward()
    (25 * distance + 50 * angle).backward()
    assert terms["rkd_distance"].item() == pytest.approx(25 * distance.item(), rel=1e-5)
    assert terms["rkd_angle"].item() == pytest.approx(50 * angle.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-5)


def test_a_student_that_is_moved_turned_and_scaled_is_a_perfect_one(
    losses_of: MakeLosses, points: tuple[Tensor, Tensor]
) -> None:
    _, teacher = points
    turn, _ = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)))
    terms = losses_of(0.3 * teacher @ turn + 5, teacher).transfer
    assert terms["rkd_distance"].item() == pytest.approx(0.0, abs=1e-5)
    assert terms["rkd_angle"].item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("gap", [0.0, 1e-9], ids=["equal", "as good as equal"])
def test_samples_that_coincide_give_finite_gradients(
    losses_of: MakeLosses, points: tuple[Tensor, Tensor], gap: float
) -> None:
    student, teacher = points
    student[1] = student[0] + gap
    student.requires_grad_()
    losses_of(student, teacher).total().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 100


def test_a_batch_of_two_equal_samples_is_no_trouble(losses_of: MakeLosses) -> None:
    student = torch.ones(2, 4, requires_grad=True)
    total = losses_of(student, torch.eye(2)).total()
    total.backward()
    assert total.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_mean_distance_is_1_and_a_right_angle_has_cosine_0() -> None:
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    apart = differences(square)
    assert relative_distances(apart).sum().item() == pytest.approx(12.0)
    assert angle_cosines(apart)[0, 1, 3].item() == pytest.approx(0.0)
    assert angle_cosines(apart)[0, 1, 2].item() == pytest.approx(0.5**0.5)


def test_a_relation_without_weight_is_not_there(losses_of: MakeLosses, points: tuple[Tensor, Tensor]) -> None:
    assert list(losses_of(*points).terms()) == ["task", "kd", "rkd_distance", "rkd_angle"]
    assert list(losses_of(*points, angle_weight=0.0).transfer) == ["kd", "rkd_distance"]
    assert list(losses_of(*points, distance_weight=0.0).transfer) == ["kd", "rkd_angle"]


def test_with_weights_that_leave_nothing_to_distil_it_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to distil"):
        RelationalConfig(distance_weight=0.0, angle_weight=0.0)
