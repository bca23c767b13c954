from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.ab import ActivationBoundaries, ActivationBoundariesConfig
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.protocols.maps import tap_and_size

LABELS = torch.tensor([0, 4, 2])

MakeAb = Callable[..., ActivationBoundaries]
Look = Callable[[ActivationBoundaries], Step]


@pytest.fixture
def make_ab(make_setup: Callable[..., Setup]) -> MakeAb:
    def build(student: str = "resnet8", teacher: str = "resnet14", **options: Any) -> ActivationBoundaries:
        return ActivationBoundaries(ActivationBoundariesConfig(**options), make_setup(student, teacher))

    return build


@pytest.fixture
def look(
    make_step: Callable[..., Step], with_averages: Callable[[ActivationBoundaries, Outputs], Outputs]
) -> Look:
    """Draw the maps that the method reads; the student's have gradients."""

    def outputs(backbone: Backbone, taps: list[str], seed: int) -> Outputs:
        random = torch.Generator().manual_seed(seed)
        maps = {
            tap: (2 * torch.randn(3, *backbone.tap_shapes[tap], generator=random)).requires_grad_()
            for tap in taps
        }
        return Outputs(logits=torch.randn(3, 5, generator=random), taps=maps)

    def draw(method: ActivationBoundaries) -> Step:
        own = outputs(method.student, [tap for tap, _ in method.pairs], 0)
        other = outputs(method.setup.teacher, [tap_and_size(tap)[0] for _, tap in method.pairs], 1)
        return make_step(LABELS, own, with_averages(method, other))

    return draw


def plain_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Restate the four cases of the loss, summed over everything."""
    total = torch.zeros((), dtype=torch.float64)
    total = total + ((student + 1) ** 2)[(teacher <= 0) & (student > -1)].sum()
    return total + ((student - 1) ** 2)[(teacher > 0) & (student <= 1)].sum()


@pytest.mark.parametrize(
    ("student", "teacher"), [("resnet8", "resnet14"), ("vgg8", "wrn_16_2"), ("resnet8", "mobilenetv2")]
)
def test_value_and_gradient_are_those_of_the_formula(
    make_ab: MakeAb, look: Look, student: str, teacher: str
) -> None:
    method = make_ab(student, teacher, init_share=0.0).eval()
    step = look(method)
    loss = method.losses(step).transfer["ab"]
    loss.backward()

    connectors = copy.deepcopy(method.projectors).double()
    leaves = {tap: maps.detach().double().requires_grad_() for tap, maps in step.student.taps.items()}
    expected, weight = torch.zeros((), dtype=torch.float64), 1.0
    for (own, other), connector in zip(reversed(method.pairs), reversed(connectors), strict=True):
        target = step.teachers[0].taps[other].detach().double()
        size = tuple(min(pair) for pair in zip(leaves[own].shape[2:], target.shape[2:], strict=True))
        pool = nn.AdaptiveAvgPool2d(size)
        expected = expected + 0.003 * weight * plain_distance(connector(pool(leaves[own])), pool(target)) / 3
        weight /= 2
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for tap, maps in step.student.taps.items():
        torch.testing.assert_close(maps.grad, leaves[tap].grad, rtol=1e-3, atol=1e-6, check_dtype=False)


def test_maps_are_those_before_the_activation(make_ab: MakeAb) -> None:
    assert make_ab("wrn_16_2", "resnet8", init_share=0.0).student_taps == (
        *("stage1_pre", "stage2_pre", "stage3_pre"),
    )


def test_only_the_sides_of_the_boundaries_matter(make_ab: MakeAb, look: Look) -> None:
    method = make_ab("resnet14", "resnet14", init_share=0.0)
    method.projectors = nn.ModuleList(nn.Identity() for _ in method.pairs)
    step = look(method)
    for tap, maps in step.teachers[0].taps.items():
        step.student.taps[tap] = (maps.sign() * (1 + maps.abs())).detach()
    assert method.losses(step).transfer["ab"].item() == 0.0
    before = look(method)
    value = method.losses(before).transfer["ab"].item()
    for tap, maps in before.teachers[0].taps.items():
        before.teachers[0].taps[tap] = 9 * maps
    assert method.losses(before).transfer["ab"].item() == value


def test_boundaries_come_alone_first_and_are_dropped_after(make_ab: MakeAb, look: Look) -> None:
    method = make_ab(init_share=0.25, kd_weight=1 / 9, ce_weight=0.0)
    first, second = method.phases()
    step = look(method)
    method.begin(first)
    assert list(method.losses(step).terms()) == ["ab"]
    assert not method.student.classifier.weight.requires_grad
    method.begin(second)
    assert list(method.losses(step).terms()) == ["kd"]
    assert not any(one.requires_grad for one in method.projectors.parameters())
    assert method.student.classifier.weight.requires_grad
