from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.ft import FactorTransfer, FactorTransferConfig
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeFt = Callable[..., FactorTransfer]
Look = Callable[[FactorTransfer], Step]


@pytest.fixture
def make_ft(make_setup: Callable[..., Setup]) -> MakeFt:
    """Build the method at the beginning of one of its phases."""

    def build(
        student: str = "resnet8", teacher: str = "resnet14", phase: int = 1, **options: Any
    ) -> FactorTransfer:
        method = FactorTransfer(FactorTransferConfig(**options), make_setup(student, teacher))
        method.begin(method.phases()[phase])
        return method.train()

    return build


@pytest.fixture
def look(draw_stages: Callable[..., Step]) -> Look:
    return lambda method: draw_stages(method, LABELS)


def plain_factor(factor: Tensor, form: str) -> Tensor:
    """Restate what is compared of one sample's factor [C, H, W]."""
    vector = factor.flatten() if form == "factors" else sum(channel**2 for channel in factor).flatten()
    return vector / (vector @ vector).sqrt()


@pytest.mark.parametrize("form", ["factors", "attention"])
@pytest.mark.parametrize(("student", "teacher"), [("resnet8", "resnet14"), ("vgg8", "resnet8")])
def test_the_second_phase_compares_normalised_factors(
    make_ft: MakeFt, look: Look, student: str, teacher: str, form: str
) -> None:
    method = make_ft(student, teacher, form=form).eval()
    step = look(method)
    maps, target = step.student.taps[method.student.final_tap], step.teachers[0].taps["stage3"]
    loss = method.losses(step).transfer["ft"]
    loss.backward()

    leaf = maps.detach().double().requires_grad_()
    translator = copy.deepcopy(method.translator).double()
    encoder = copy.deepcopy(method.paraphraser["encoder"]).double()
    own, other = translator(leaf), encoder(target.detach().double()).detach()
    pool = nn.AdaptiveAvgPool2d(tuple(min(pair) for pair in zip(own.shape[2:], other.shape[2:], strict=True)))
    gaps = [
        (plain_factor(mine, form) - plain_factor(theirs, form)).abs()
        for mine, theirs in zip(pool(own), pool(other), strict=True)
    ]
    expected = 500 * torch.stack(gaps).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    scale = leaf.grad.abs().max().item()
    torch.testing.assert_close(maps.grad, leaf.grad, rtol=1e-2, atol=1e-3 * scale, check_dtype=False)
    assert target.grad is None


@pytest.mark.parametrize(("reconstruction", "power"), [("l2", 2), ("l1", 1)])
def test_the_first_phase_learns_to_restore_the_teachers_map(
    make_ft: MakeFt, look: Look, reconstruction: str, power: int
) -> None:
    method = make_ft(phase=0, reconstruction=reconstruction)
    step = look(method)
    losses = method.losses(step)
    losses.total().backward()

    twin = copy.deepcopy(method.paraphraser).double()
    twin.zero_grad()
    target = step.teachers[0].taps["stage3"].detach().double()
    restored = twin["decoder"](twin["encoder"](target))
    expected = ((restored - target).abs() ** power).sum() / target.numel()
    expected.backward()
    assert list(losses.terms()) == ["paraphrase"]
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-5)
    for own, other in zip(method.paraphraser.parameters(), twin.parameters(), strict=True):
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-4 * scale, check_dtype=False)
    expected_logits = method.setup.teacher.tail("stage3")(restored.float())
    torch.testing.assert_close(losses.logits, expected_logits, rtol=1e-4, atol=1e-4)
    assert not losses.logits.requires_grad


def test_shapes_are_those_of_the_paper(make_ft: MakeFt) -> None:
    method = make_ft("resnet8", "vgg8")
    convolutions = [m for m in method.paraphraser["encoder"] if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [(512, 512), (512, 256), (256, 256)]
    convolutions = [m for m in method.translator if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [(64, 64), (64, 256), (256, 256)]
    norms = [m for m in make_ft(form="attention").translator if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3


def test_first_only_the_paraphraser_is_trained_then_all_but_it(make_ft: MakeFt) -> None:
    trained = {
        phase: {
            name.split(".")[0] for name, one in make_ft(phase=phase).named_parameters() if one.requires_grad
        }
        for phase in (0, 1)
    }
    assert trained == {0: {"paraphraser"}, 1: {"student", "translator"}}
    first = make_ft(phase=0)
    assert first.student_taps == ()
    assert not first.reads_student_logits
    assert not first.reads_teacher_logits


def test_scaled_factors_are_the_same(make_ft: MakeFt, look: Look) -> None:
    method = make_ft("resnet14", "resnet14").eval()
    method.translator.load_state_dict(method.paraphraser["encoder"].state_dict())
    for layer in (method.translator, method.paraphraser["encoder"]):
        for one in layer:
            if isinstance(one, nn.Conv2d):
                nn.init.zeros_(one.bias)
    step = look(method)
    step.student.taps["stage3"] = 5 * step.teachers[0].taps["stage3"].detach()
    assert method.losses(step).transfer["ft"].item() == pytest.approx(0.0, abs=1e-4)
    assert list(method.losses(step).terms()) == ["task", "ft"]
