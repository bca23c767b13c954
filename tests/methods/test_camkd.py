from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.methods.camkd import ConfidenceAwareConfig, ConfidenceAwareDistillation
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2])
LINEAR = Spec(kind="projector", name="linear", options=NoOptions())

MakeMethod = Callable[..., ConfidenceAwareDistillation]
Draw = Callable[..., tuple[Outputs, ...]]


@pytest.fixture
def make_method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(student: str, *teachers: str, **options: Any) -> ConfidenceAwareDistillation:
        return ConfidenceAwareDistillation(
            ConfidenceAwareConfig(projector=LINEAR, **options), make_setup(student, *teachers)
        )

    return build


def plain_trust(logits: list[Tensor], sample: int) -> list[Tensor]:
    """Restate the weights of the teachers for one sample."""
    errors = torch.stack([-one[sample].log_softmax(dim=0)[LABELS[sample]] for one in logits])
    return [(1 - share) / (len(logits) - 1) for share in errors.softmax(dim=0)]


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("divided", [True, False])
def test_value_and_gradient_are_those_of_the_formula(
    make_method: MakeMethod,
    draw_outputs: Draw,
    make_step: Callable[..., Step],
    *,
    divided: bool,
    detached: bool,
) -> None:
    teachers = ("resnet14", "vgg8", "mobilenetv2")
    method = make_method(
        "resnet8", *teachers, divide_by_teachers=divided, detach_weights=detached, feature_weight=7.0
    )
    step = make_step(LABELS, *draw_outputs(method, 3))
    maps, logits = step.student.taps["stage3"], step.student.require_logits()
    losses = method.losses(step)
    losses.total().backward()

    leaf, plain = (tensor.detach().double().requires_grad_() for tensor in (maps, logits))
    said = [teacher.require_logits().double() for teacher in step.teachers]
    projected, targets, answers = [], [], []
    for place, teacher in enumerate(method.setup.teachers):
        target = step.teachers[place].taps[method.teacher_taps[place][0]].double()
        size = tuple(min(pair) for pair in zip(leaf.shape[2:], target.shape[2:], strict=True))
        projected.append(copy.deepcopy(method.projectors[place]).double()(nn.AdaptiveAvgPool2d(size)(leaf)))
        targets.append(nn.AdaptiveAvgPool2d(size)(target))
        tail = copy.deepcopy(teacher.tail(teacher.final_tap)).double()
        answers.append(tail(projected[-1].detach() if detached else projected[-1]))
    expected = functional.cross_entropy(plain, LABELS)
    for b in range(3):
        trust, feature_trust = plain_trust(said, b), plain_trust(answers, b)
        for place in range(3):
            p, q = (said[place][b] / 4).softmax(dim=0), (plain[b] / 4).softmax(dim=0)
            divergence = 16 * (p * (p / q).log()).sum()
            distance = (projected[place][b] - targets[place][b]).square().mean()
            term = trust[place] * divergence + 7 * feature_trust[place] * distance
            expected = expected + term / (3 * (3 if divided else 1))
    expected.backward()
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(maps.grad, leaf.grad, rtol=1e-3, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(logits.grad, plain.grad, rtol=1e-3, atol=1e-5, check_dtype=False)
    assert list(losses.terms()) == ["task", "kd", "camkd"]


def test_a_teacher_that_knows_the_label_counts_more(
    make_method: MakeMethod, draw_outputs: Draw, make_step: Callable[..., Step]
) -> None:
    method = make_method("resnet8", "resnet14", "vgg8")
    student, first, second = draw_outputs(method, 3)
    right = Outputs(logits=9 * torch.eye(5)[LABELS], taps=first.taps)
    wrong = Outputs(logits=9 * torch.eye(5)[(LABELS + 1) % 5], taps=second.taps)
    metrics = method.losses(make_step(LABELS, student, right, wrong)).metrics
    assert metrics["weight_1"].item() > 0.99
    assert metrics["weight_1"].item() + metrics["weight_2"].item() == pytest.approx(1.0)
