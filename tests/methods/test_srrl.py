from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.srrl import SoftmaxRegression, SoftmaxRegressionConfig
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2, 1])
PAIRS = [("resnet8", "resnet14"), ("shufflenetv2", "resnet8"), ("resnet8", "mobilenetv2")]

MakeSrrl = Callable[..., SoftmaxRegression]
Look = Callable[[SoftmaxRegression], Step]


@pytest.fixture
def make_srrl(make_setup: Callable[..., Setup]) -> MakeSrrl:
    def build(student: str = "resnet8", teacher: str = "resnet14", **options: Any) -> SoftmaxRegression:
        spec = Spec(kind="projector", name="pointwise", options=NoOptions())
        config = SoftmaxRegressionConfig(projector=spec, **options)
        return SoftmaxRegression(config, make_setup(student, teacher))

    return build


@pytest.fixture
def look(make_step: Callable[..., Step]) -> Look:
    """Draw what the method reads; the student's features have gradients."""

    def outputs(backbone: Backbone, tap: str, seed: int) -> Outputs:
        random = torch.Generator().manual_seed(seed)
        features = torch.randn(4, *backbone.tap_shapes[tap], generator=random).requires_grad_()
        return Outputs(logits=torch.randn(4, 5, generator=random), taps={tap: features})

    def draw(method: SoftmaxRegression) -> Step:
        student = outputs(method.student, method.student_tap, seed=0)
        return make_step(LABELS, student, outputs(method.setup.teacher, "pooled", seed=1))

    return draw


def plain_projection(projector: nn.Module, features: Tensor) -> Tensor:
    """Restate ReLU(BN(W f)) at every position of [B, C, H, W], then the mean over positions."""
    conv, norm, _ = projector.layers.children()
    mixed = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], features)
    spread = ((mixed - mixed.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3), keepdim=True)
    standard = (mixed - mixed.mean((0, 2, 3), keepdim=True)) / (spread + 1e-5).sqrt()
    scaled = standard * norm.weight[:, None, None] + norm.bias[:, None, None]
    return scaled.clamp(min=0).mean((2, 3))


@pytest.mark.parametrize("form", ["simkd", "paper"])
@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_values_and_gradients_are_those_of_the_formulas(
    make_srrl: MakeSrrl, look: Look, student: str, teacher: str, form: str
) -> None:
    method = make_srrl(student, teacher, form=form, srrl_weight=3.0, feature_weight=0.5)
    projector = copy.deepcopy(method.projector).double()
    step = look(method)
    features, other = step.student.taps[method.student_tap], step.teachers[0]
    terms = method.losses(step).transfer
    (terms["srrl"] + terms["srrl_features"]).backward()

    leaf = features.detach().double().requires_grad_()
    vectors = plain_projection(projector, leaf if form == "paper" else leaf[:, :, None, None])
    classifier = method.setup.teacher.classifier
    logits = vectors @ classifier.weight.double().T + classifier.bias.double()
    regression = 3 * ((logits - other.require_logits().double()) ** 2).sum() / (4 * 5)
    matching = 0.5 * ((vectors - other.taps["pooled"].double()) ** 2).sum() / vectors.numel()
    (regression + matching).backward()
    assert terms["srrl"].item() == pytest.approx(regression.item(), rel=1e-4)
    assert terms["srrl_features"].item() == pytest.approx(matching.item(), rel=1e-4)
    torch.testing.assert_close(features.grad, leaf.grad, rtol=1e-3, atol=1e-5, check_dtype=False)
    for parameter, twin in zip(method.projector.parameters(), projector.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize(("form", "student", "tap"), [
    ("simkd", "resnet8", "pooled"),
    ("paper", "resnet8", "stage3"),
    ("paper", "shufflenetv2", "head"),
])  # fmt: skip
def test_the_form_decides_what_is_projected(make_srrl: MakeSrrl, form: str, student: str, tap: str) -> None:
    assert make_srrl(student, form=form).student_taps == (tap,)


def test_a_linear_projector_makes_the_forms_one(make_srrl: MakeSrrl, look: Look) -> None:
    """It is the ReLU before or after the mean that tells them apart."""
    paper, simkd = make_srrl(form="paper"), make_srrl(form="simkd")
    paper.projector = simkd.projector = nn.Conv2d(64, 64, 1)
    step = look(paper)
    step.student.taps["pooled"] = step.student.taps["stage3"].mean(dim=(2, 3))
    left, right = paper.losses(step).terms(), simkd.losses(step).terms()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].item() == pytest.approx(right[name].item(), rel=1e-5)


def test_the_teachers_own_features_have_no_loss(make_srrl: MakeSrrl, make_step: Callable[..., Step]) -> None:
    method = make_srrl()
    method.projector = nn.Identity()
    teacher = method.setup.teacher
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = teacher.observe(images, ["pooled"])
    losses = method.losses(make_step(LABELS, outputs, outputs))
    assert losses.transfer["srrl"].item() == pytest.approx(0.0, abs=1e-10)
    assert losses.transfer["srrl_features"].item() == 0.0


def test_only_terms_with_a_weight_are_there(make_srrl: MakeSrrl, look: Look) -> None:
    for options, terms in (
        ({}, ["task", "kd", "srrl_features", "srrl"]),
        ({"kd_weight": 0.0}, ["task", "srrl_features", "srrl"]),
        ({"feature_weight": 0.0, "ce_weight": 0.0}, ["kd", "srrl"]),
    ):
        method = make_srrl(**options)
        assert list(method.losses(look(method)).terms()) == terms


def test_the_teachers_classifier_is_used_but_not_owned(make_srrl: MakeSrrl, look: Look) -> None:
    method = make_srrl()
    owned = {id(parameter) for parameter in method.parameters()}
    assert not owned & {id(parameter) for parameter in method.setup.teacher.parameters()}
    method.losses(look(method)).total().backward()
    assert all(parameter.grad is None for parameter in method.setup.teacher.parameters())
