from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.methods.mlld import MultiLevelLogitConfig, MultiLevelLogitDistillation
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])

MakeLosses = Callable[..., Losses]


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    def build(student: Tensor, teacher: Tensor, **options: Any) -> Losses:
        method = MultiLevelLogitDistillation(
            MultiLevelLogitConfig(**options), make_setup("resnet8", "resnet14")
        )
        return method.losses(make_step(LABELS, Outputs(logits=student), Outputs(logits=teacher)))

    return build


def lower_half(values: Tensor) -> list[int]:
    """Restate which half is least sure: the smaller ones."""
    order = sorted(range(len(values)), key=lambda place: values[place].item())
    return order[: (len(values) + 1) // 2]


def plain_levels(student: Tensor, teacher: Tensor, *, selected: bool, scaled: bool) -> dict[str, Tensor]:
    """Restate the three levels, sample by sample and class by class, summed over five temperatures."""
    sure = teacher.softmax(dim=1)
    samples = lower_half(sure.amax(dim=1)) if selected else range(len(student))
    classes = lower_half(sure.sum(dim=0)) if selected else range(student.shape[1])
    sums = {name: torch.zeros((), dtype=torch.float64) for name in ("instance", "batch", "class")}
    for temperature in (2.0, 3.0, 4.0, 5.0, 6.0):
        own, other = (student / temperature).softmax(dim=1), (teacher / temperature).softmax(dim=1)
        for b in samples:
            z_s, z_t = student[b], teacher[b]
            if scaled:
                z_s, z_t = ((z - z.mean()) / z.std() for z in (z_s, z_t))
            p, q = (z_t / temperature).softmax(dim=0), (z_s / temperature).softmax(dim=0)
            sums["instance"] = sums["instance"] + temperature**2 * (p * (p / q).log()).sum() / len(samples)
            row = (own[b] @ own.T - other[b] @ other.T) ** 2
            sums["batch"] = sums["batch"] + row.sum() / len(samples)
        for c in classes:
            row = (own[:, c] @ own - other[:, c] @ other) ** 2
            sums["class"] = sums["class"] + row.sum() / len(classes)
    return sums


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("selected", [False, True])
def test_values_and_gradients_are_those_of_the_formula(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor], *, selected: bool, scaled: bool
) -> None:
    for name in ("instance", "batch", "class"):
        ours, plain = logits[0].clone().requires_grad_(), logits[0].double().requires_grad_()
        loss = losses_of(ours, logits[1], low_confidence=selected, standardise=scaled).transfer[name]
        loss.backward()
        expected = 0.9 * plain_levels(plain, logits[1].double(), selected=selected, scaled=scaled)[name]
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-5, check_dtype=False)


def test_a_student_with_the_teachers_logits_has_no_loss(
    losses_of: MakeLosses, logits: tuple[Tensor, Tensor]
) -> None:
    losses = losses_of(logits[1] + 2.0, logits[1], ce_weight=0.0)
    assert losses.total().item() == pytest.approx(0.0, abs=1e-4)
    assert losses_of(4 * logits[1], logits[1], standardise=True).transfer["instance"].item() < 1e-4


def test_levels_can_be_left_out(losses_of: MakeLosses, logits: tuple[Tensor, Tensor]) -> None:
    assert list(losses_of(*logits).terms()) == ["task", "instance", "batch", "class"]
    assert list(losses_of(*logits, batch_weight=0.0, class_weight=0.0).terms()) == ["task", "instance"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"instance_weight": 0.0, "batch_weight": 0.0, "class_weight": 0.0}, "nothing to distil"),
        ({"temperatures": ()}, "name some"),
        ({"temperatures": (0.0, 4.0)}, "all above 0"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        MultiLevelLogitConfig(**options)
