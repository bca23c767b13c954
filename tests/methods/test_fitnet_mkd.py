from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.errors import KdctlError
from kdctl.methods.fitnet_mkd import SeveralHints, SeveralHintsConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2])
LINEAR = Spec(kind="projector", name="linear", options=NoOptions())

MakeMethod = Callable[..., SeveralHints]


@pytest.fixture
def make_method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(student: str, *teachers: str, **options: Any) -> SeveralHints:
        return SeveralHints(SeveralHintsConfig(projector=LINEAR, **options), make_setup(student, *teachers))

    return build


def pooled(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Restate the averaging of the larger of two maps."""
    size = tuple(min(pair) for pair in zip(own.shape[2:], other.shape[2:], strict=True))
    return nn.AdaptiveAvgPool2d(size)(own), nn.AdaptiveAvgPool2d(size)(other)


def test_value_and_gradient_are_those_of_the_formula(
    make_method: MakeMethod,
    draw_outputs: Callable[..., tuple[Outputs, ...]],
    make_step: Callable[..., Step],
) -> None:
    method = make_method("resnet8", "resnet14", "vgg8", "wrn_16_2")
    step = make_step(LABELS, *draw_outputs(method, 3))
    maps, logits = step.student.taps["stage2"], step.student.require_logits()
    losses = method.losses(step)
    losses.total().backward()

    leaf, plain = (tensor.detach().double().requires_grad_() for tensor in (maps, logits))
    hints, divergences = [], []
    for place, teacher in enumerate(step.teachers):
        connector = copy.deepcopy(method.projectors[place]).double()
        own, other = pooled(leaf, teacher.taps[method.teacher_taps[place][0]].double())
        hints.append((connector(own) - other).square().mean())
        p, q = (teacher.require_logits().double() / 4).softmax(dim=1), (plain / 4).softmax(dim=1)
        divergences.append(16 * (p * (p / q).log()).sum() / 3)
    expected = 100 * sum(hints) / 3 + sum(divergences) / 3 + nn.functional.cross_entropy(plain, LABELS)
    expected.backward()
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(maps.grad, leaf.grad, rtol=1e-3, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(logits.grad, plain.grad, rtol=1e-3, atol=1e-5, check_dtype=False)
    assert list(losses.terms()) == ["task", "kd", "hint"]


def test_the_stage_is_the_students(make_method: MakeMethod) -> None:
    method = make_method("resnet8", "resnet14", "vgg8", stage=3)
    assert method.student_taps == ("stage3",)
    assert method.teacher_taps == (("stage3",), ("stage4",))
    with pytest.raises(KdctlError, match="stage = 4: the student has 3 stages"):
        make_method("resnet8", "resnet14", "vgg8", stage=4)
