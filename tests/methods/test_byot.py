from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdctl.methods.byot import SelfDistillation, SelfDistillationConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeByot = Callable[..., SelfDistillation]
Draw = Callable[..., tuple[Outputs, ...]]


@pytest.fixture
def make_byot(make_setup: Callable[..., Setup]) -> MakeByot:
    def build(student: str = "resnet8", **options: Any) -> SelfDistillation:
        return SelfDistillation(SelfDistillationConfig(**options), make_setup(student))

    return build


@pytest.mark.parametrize("form", ["squared", "code"])
def test_value_and_gradient_are_those_of_the_formula(
    make_byot: MakeByot, draw_outputs: Draw, make_step: Callable[..., Step], form: str
) -> None:
    method = make_byot(feature_form=form).eval()
    step = make_step(LABELS, *draw_outputs(method, 3))
    losses = method.losses(step)
    losses.total().backward()

    leaves = {tap: maps.detach().double().requires_grad_() for tap, maps in step.student.taps.items()}
    plain = step.student.require_logits().detach().double().requires_grad_()
    exits, classifiers = copy.deepcopy(method.exits).double(), copy.deepcopy(method.classifiers).double()
    last = leaves["stage3"].detach().mean(dim=(2, 3))
    target = (plain.detach() / 3).softmax(dim=1)
    expected = functional.cross_entropy(plain, LABELS)
    for place, tap in enumerate(("stage1", "stage2")):
        features = exits[place](leaves[tap])
        answer = classifiers[place](features)
        expected = expected + 0.7 * functional.cross_entropy(answer, LABELS)
        expected = expected + 0.3 * (target * (target / (answer / 3).softmax(dim=1)).log()).sum() / 3
        square = (features - last).square().sum()
        expected = expected + 0.03 * (square / 3 if form == "squared" else square.sqrt())
    expected.backward()
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-5)
    for tap in ("stage1", "stage2"):
        own = step.student.taps[tap].grad
        torch.testing.assert_close(own, leaves[tap].grad, rtol=1e-3, atol=1e-6, check_dtype=False)
    own = step.student.require_logits().grad
    torch.testing.assert_close(own, plain.grad, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_the_last_stage_learns_from_the_labels_alone(
    make_byot: MakeByot, draw_outputs: Draw, make_step: Callable[..., Step]
) -> None:
    method = make_byot()
    step = make_step(LABELS, *draw_outputs(method, 3))
    method.losses(step).total().backward()
    assert step.student.taps["stage3"].grad is None
    logits = step.student.require_logits()
    alone = torch.autograd.grad(functional.cross_entropy(logits, LABELS), logits)[0]
    torch.testing.assert_close(logits.grad, alone)


@pytest.mark.parametrize("student", ["vgg8", "mobilenetv2", "shufflenetv2", "wrn_16_2"])
def test_exits_have_the_shape_of_the_last_stage(make_byot: MakeByot, student: str) -> None:
    method = make_byot(student).eval()
    images = torch.randn(2, 3, 16, 16)
    taps = method.student.eval().observe(images, method.student_taps, with_logits=False).taps
    channels, *size = method.student.tap_shapes[method.student.final_tap]
    for leave, tap in zip(method.exits, method.student_taps, strict=False):
        *body, pool = leave
        assert nn.Sequential(*body)(taps[tap]).shape[1:] == (channels, *size)
        assert pool(taps[tap]).dim() == 2
    assert len(method.exits) == len(method.student_taps) - 1


def test_terms_can_be_left_out_and_the_plain_student_is_shipped(
    make_byot: MakeByot, draw_outputs: Draw, make_step: Callable[..., Step]
) -> None:
    for options, names in (
        ({}, ["task", "soft", "features"]),
        ({"soft_share": 0.0, "feature_weight": 0.0}, ["task"]),
    ):
        method = make_byot(**options)
        assert list(method.losses(make_step(LABELS, *draw_outputs(method, 3))).terms()) == names
        assert method.inference_model() is method.student
