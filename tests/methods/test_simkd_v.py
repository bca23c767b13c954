from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdctl.losses.reused_classifiers import ReuseOptions, ReusesSeveral
from kdctl.methods.simkd_multi import SeveralSimKd
from kdctl.methods.simkd_v import VotingSimKd
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2])
LINEAR = Spec(kind="projector", name="linear", options=NoOptions())
TEACHERS = ("resnet14", "vgg8", "mobilenetv2")
FORMS = [VotingSimKd, SeveralSimKd]

MakeMethod = Callable[..., ReusesSeveral]
Draw = Callable[..., tuple[Outputs, ...]]


@pytest.fixture
def make_method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(kind: type[ReusesSeveral], student: str = "resnet8", **options: Any) -> ReusesSeveral:
        return kind(ReuseOptions(projector=LINEAR, **options), make_setup(student, *TEACHERS))

    return build


@pytest.mark.parametrize("kind", FORMS)
def test_value_and_gradient_are_those_of_the_formula(
    make_method: MakeMethod, draw_outputs: Draw, make_step: Callable[..., Step], kind: type[ReusesSeveral]
) -> None:
    method = make_method(kind, simkd_weight=2.0)
    step = make_step(LABELS, *draw_outputs(method, 3))
    maps = step.student.taps["stage3"]
    losses = method.losses(step)
    losses.total().backward()

    leaf, expected, first = maps.detach().double().requires_grad_(), 0.0, 0
    projectors = [copy.deepcopy(projector).double() for projector in method.heads.projectors]
    for place, teacher in enumerate(method.setup.teachers):
        target = step.teachers[place].taps[method.teacher_taps[place][0]].double()
        own = nn.AdaptiveAvgPool2d(target.shape[2:])(leaf)
        width = teacher.tap_shapes[teacher.final_tap][0]
        if kind is VotingSimKd:
            projected = projectors[place](own)
        else:
            projected = projectors[0](own)[:, first : first + width]
            first += width
        expected = expected + 2 * (projected - target).square().mean() / 3
    expected.backward()
    assert list(losses.terms()) == ["simkd"]
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(maps.grad, leaf.grad, rtol=1e-3, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("kind", FORMS)
def test_the_shipped_model_averages_the_classifiers(
    make_method: MakeMethod, kind: type[ReusesSeveral]
) -> None:
    method = make_method(kind).eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features = method.student.observe(images, ["stage3"], with_logits=False).taps["stage3"]
    answers, first = [], 0
    for place, teacher in enumerate(method.setup.teachers):
        width = teacher.tap_shapes[teacher.final_tap][0]
        if kind is VotingSimKd:
            size = min(features.shape[-1], teacher.tap_shapes[teacher.final_tap][-1])
            projected = method.heads.projectors[place](nn.AdaptiveAvgPool2d(size)(features))
        else:
            size = min(model.tap_shapes[model.final_tap][-1] for model in method.setup.teachers)
            whole = method.heads.projectors[0](nn.AdaptiveAvgPool2d(size)(features))
            projected = whole[:, first : first + width]
            first += width
        answers.append(teacher.tail(teacher.final_tap)(projected))
    logits = method.inference_model().eval()(images)
    if kind is VotingSimKd:
        expected = sum(answer.softmax(dim=1) for answer in answers) / 3
        torch.testing.assert_close(logits.exp(), expected, rtol=1e-4, atol=1e-6)
    else:
        torch.testing.assert_close(logits, sum(answers) / 3, rtol=1e-4, atol=1e-5)


def test_all_in_one_projector_or_one_for_each(make_method: MakeMethod) -> None:
    assert len(make_method(VotingSimKd).heads.projectors) == 3
    assert len(make_method(SeveralSimKd).heads.projectors) == 1
    assert make_method(VotingSimKd).teacher_taps == (("stage3",), ("stage4",), ("stage4",))
    assert make_method(SeveralSimKd).teacher_taps == (("stage3@1x1",), ("stage4@1x1",), ("stage4",))


@pytest.mark.parametrize("kind", FORMS)
def test_the_students_own_classifier_is_left_out(make_method: MakeMethod, kind: type[ReusesSeveral]) -> None:
    method = make_method(kind)
    assert list(method.frozen_modules()) == ["pooled", "classifier"]
    assert not method.ships_student(method.config)
