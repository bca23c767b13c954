from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.cat_kd import ClassAttentionConfig, ClassAttentionTransfer
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeCat = Callable[..., ClassAttentionTransfer]
Look = Callable[[ClassAttentionTransfer], Step]


@pytest.fixture
def make_cat(make_setup: Callable[..., Setup]) -> MakeCat:
    def build(student: str = "resnet8", teacher: str = "resnet14", **options: Any) -> ClassAttentionTransfer:
        return ClassAttentionTransfer(ClassAttentionConfig(**options), make_setup(student, teacher))

    return build


@pytest.fixture
def look(make_step: Callable[..., Step]) -> Look:
    """Run both models on noise, as the engine would."""

    def run(method: ClassAttentionTransfer) -> Step:
        images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        student = method.student.eval().observe(images, method.student_taps)
        teacher = method.setup.teacher.observe(images, method.teacher_taps[0])
        for maps in student.taps.values():
            maps.retain_grad()
        return make_step(LABELS, student, teacher)

    return run


def plain_activations(weights: Tensor, features: Tensor, size: int, *, normalise: bool) -> Tensor:
    """Restate the maps of all classes: classify each position, then average."""
    positions = torch.einsum("kc,bchw->bkhw", weights, features)
    averaged = nn.AdaptiveAvgPool2d(size)(positions)
    if not normalise:
        return averaged
    return averaged / averaged.square().sum(dim=(2, 3), keepdim=True).sqrt()


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_value_and_gradient_are_those_of_the_formula(
    make_cat: MakeCat, look: Look, size: int, *, normalise: bool
) -> None:
    method = make_cat(cat_size=size, normalise=normalise)
    step = look(method)
    maps = step.student.taps["stage3"]
    loss = method.losses(step).transfer["cat_kd"]
    loss.backward()

    teacher, own = method.setup.teacher, method.student.classifier.weight
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    target = teacher.observe(images, ["stage3"], with_logits=False).taps["stage3"].double()
    leaf, weights = (tensor.detach().double().requires_grad_() for tensor in (maps, own))
    gap = plain_activations(weights, leaf, size, normalise=normalise) - plain_activations(
        teacher.classifier.weight.double(), target, size, normalise=normalise
    )
    expected = 15 * (gap**2).sum() / gap.numel()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for ours, theirs in ((maps.grad, leaf.grad), (own.grad, weights.grad)):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * scale, check_dtype=False)


def test_averaged_to_a_pixel_they_are_the_logits_without_their_bias(make_cat: MakeCat, look: Look) -> None:
    for student, teacher in (("resnet8", "resnet14"), ("mobilenetv2", "vgg8"), ("shufflenetv2", "wrn_16_2")):
        method = make_cat(student, teacher, cat_size=1)
        step = look(method)
        own = step.student.require_logits() - method.student.classifier.bias
        other = step.teachers[0].require_logits() - method.setup.teacher.classifier.bias
        expected = 15 * (own - other).square().mean()
        assert method.losses(step).transfer["cat_kd"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_normalised_it_is_blind_to_scale(make_cat: MakeCat, look: Look) -> None:
    method = make_cat(normalise=True)
    step = look(method)
    before = method.losses(step).transfer["cat_kd"].item()
    step.student.taps["stage3"] = 7 * step.student.taps["stage3"].detach()
    assert method.losses(step).transfer["cat_kd"].item() == pytest.approx(before, rel=1e-5)


def test_the_plain_student_is_shipped_and_its_bias_is_trained(make_cat: MakeCat, look: Look) -> None:
    method = make_cat()
    assert method.inference_model() is method.student
    method.losses(look(method)).total().backward()
    assert method.student.classifier.bias.grad.any()


def test_it_stands_beside_the_terms_of_the_predictions(make_cat: MakeCat, look: Look) -> None:
    method = make_cat()
    assert not method.reads_teacher_logits
    assert list(method.losses(look(method)).terms()) == ["task", "cat_kd"]
    both = make_cat(kd_weight=1.0)
    assert list(both.losses(look(both)).terms()) == ["task", "kd", "cat_kd"]
