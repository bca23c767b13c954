from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.at import AttentionTransfer, AttentionTransferConfig
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2])
PAIRED = {
    ("resnet8", "resnet14"): (("stage1", "stage1"), ("stage2", "stage2"), ("stage3", "stage3")),
    ("vgg8", "resnet14"): (
        ("stage1", "stage1"),
        ("stage2", "stage2"),
        ("stage3", "stage2"),
        ("stage4", "stage3"),
    ),
    ("resnet8", "mobilenetv2"): (
        ("stage1", "stage1"),
        ("stage2", "stage2"),
        ("stage2", "stage3"),
        ("stage3", "stage4"),
    ),
}

MakeAt = Callable[..., AttentionTransfer]
Look = Callable[[AttentionTransfer], Step]


@pytest.fixture
def make_at(make_setup: Callable[..., Setup]) -> MakeAt:
    def build(student: str = "resnet8", teacher: str = "resnet14", **options: Any) -> AttentionTransfer:
        return AttentionTransfer(AttentionTransferConfig(**options), make_setup(student, teacher))

    return build


@pytest.fixture
def look(draw_stages: Callable[..., Step]) -> Look:
    return lambda method: draw_stages(method, LABELS)


def plain_attention(features: Tensor) -> Tensor:
    """Restate Q / ||Q|| of one sample's map [C, H, W], Q the sum of squares over the channels."""
    energy = sum(channel**2 for channel in features).flatten()
    return energy / (energy @ energy).sqrt()


def plain_distance(student: Tensor, teacher: Tensor, mode: str) -> Tensor:
    """Restate the distance of two maps [B, C, H, W], sample by sample."""
    pool = nn.AdaptiveAvgPool2d(
        tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    )
    student, teacher = pool(student), pool(teacher)
    gaps = [
        plain_attention(own) - plain_attention(other) for own, other in zip(student, teacher, strict=True)
    ]
    positions = gaps[0].numel()
    if mode == "mean":
        return sum(gap @ gap for gap in gaps) / (len(gaps) * positions)
    return sum((gap @ gap + 1e-30).sqrt() for gap in gaps) / (2 * len(gaps) * positions)


@pytest.mark.parametrize("mode", ["mean", "paper"])
@pytest.mark.parametrize(("student", "teacher"), PAIRED)
def test_it_sums_the_distances_of_all_stages(
    make_at: MakeAt, look: Look, student: str, teacher: str, mode: str
) -> None:
    method = make_at(student, teacher, mode=mode)
    step = look(method)
    loss = method.losses(step).transfer["at"]
    loss.backward()

    leaves = {tap: maps.detach().double().requires_grad_() for tap, maps in step.student.taps.items()}
    targets = {tap: maps.detach().double() for tap, maps in step.teachers[0].taps.items()}
    pairs = PAIRED[student, teacher]
    expected = 1000 * sum(plain_distance(leaves[own], targets[other], mode) for own, other in pairs)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for tap, maps in step.student.taps.items():
        torch.testing.assert_close(maps.grad, leaves[tap].grad, rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("mode", ["mean", "paper"])
def test_a_student_that_looks_where_the_teacher_looks_has_neither_loss_nor_gradient(
    make_at: MakeAt, look: Look, mode: str
) -> None:
    method = make_at("resnet14", "resnet14", mode=mode)
    step = look(method)
    for tap, maps in step.teachers[0].taps.items():
        step.student.taps[tap] = maps.detach().clone().requires_grad_()
    loss = method.losses(step).transfer["at"]
    loss.backward()
    assert loss.item() == 0.0
    assert all(not maps.grad.any() for maps in step.student.taps.values() if maps.grad is not None)


@pytest.mark.parametrize("mode", ["mean", "paper"])
def test_it_is_blind_to_the_scale_and_the_order_of_channels(make_at: MakeAt, look: Look, mode: str) -> None:
    method = make_at(mode=mode)
    step = look(method)
    before = method.losses(step).transfer["at"].item()
    for tap, maps in step.student.taps.items():
        step.student.taps[tap] = 7 * maps.detach().flip(1)
    assert method.losses(step).transfer["at"].item() == pytest.approx(before, rel=1e-5)


def test_the_deepest_stage_of_a_student_with_more_stages_learns(make_at: MakeAt, look: Look) -> None:
    """Public code leaves it out: it pairs stages from the front and stops where one list ends."""
    method = make_at("vgg8", "resnet14")
    step = look(method)
    method.losses(step).transfer["at"].backward()
    deepest = step.student.taps["stage4"].grad
    assert deepest is not None
    assert deepest.abs().max() > 0


def test_a_map_without_activation_gives_a_finite_gradient(make_at: MakeAt, look: Look) -> None:
    method = make_at(mode="paper")
    step = look(method)
    silent = torch.zeros_like(step.student.taps["stage3"], requires_grad=True)
    step.student.taps["stage3"] = silent
    method.losses(step).total().backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()


def test_it_stands_beside_the_terms_of_the_predictions(make_at: MakeAt, look: Look) -> None:
    method = make_at()
    assert list(method.losses(look(method)).terms()) == ["task", "kd", "at"]
    alone = make_at(kd_weight=0.0)
    assert not alone.reads_teacher_logits
    assert list(alone.losses(look(alone)).terms()) == ["task", "at"]
