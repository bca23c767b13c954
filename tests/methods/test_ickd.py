from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.ickd import InterChannelConfig, InterChannelCorrelation
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeIckd = Callable[..., InterChannelCorrelation]
Look = Callable[[InterChannelCorrelation], Step]


@pytest.fixture
def make_ickd(make_setup: Callable[..., Setup]) -> MakeIckd:
    def build(student: str = "resnet8", teacher: str = "vgg8", **options: Any) -> InterChannelCorrelation:
        return InterChannelCorrelation(InterChannelConfig(**options), make_setup(student, teacher))

    return build


@pytest.fixture
def look(draw_stages: Callable[..., Step]) -> Look:
    return lambda method: draw_stages(method, LABELS)


def plain_correlations(sample: Tensor, form: str) -> Tensor:
    """Restate the products of all pairs of channels of one sample's map [C, H, W]."""
    channels = sample.flatten(1)
    rows = [channels @ one for one in channels]
    if form == "code":
        rows = [row / (row @ row).sqrt() if row.any() else row for row in rows]
    return torch.stack(rows)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_value_and_gradient_are_those_of_the_formula(make_ickd: MakeIckd, look: Look, form: str) -> None:
    method = make_ickd("resnet8", "resnet8x4", form=form).eval()
    step = look(method)
    maps = step.student.taps["stage3"]
    loss = method.losses(step).transfer["ickd"]
    loss.backward()

    leaf, connector = maps.detach().double().requires_grad_(), copy.deepcopy(method.projector).double()
    projected, target = connector(leaf), step.teachers[0].taps["stage3"].detach().double()
    gaps = [
        plain_correlations(own, form) - plain_correlations(other, form)
        for own, other in zip(projected, target, strict=True)
    ]
    count = gaps[0].shape[0]
    per_sample = count if form == "code" else count**2
    expected = 2.5 * sum(gap.pow(2).sum() for gap in gaps) / (len(gaps) * per_sample)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    scale = leaf.grad.abs().max().item()
    torch.testing.assert_close(maps.grad, leaf.grad, rtol=1e-3, atol=1e-5 * scale, check_dtype=False)


def test_positions_may_be_turned_and_maps_scaled(make_ickd: MakeIckd, look: Look) -> None:
    """Only channels are compared: how large a map is, and where what lies in it, does not matter."""
    method = make_ickd("resnet14", "resnet14")
    method.projector = nn.Identity()
    step = look(method)
    maps = step.teachers[0].taps["stage3"]
    step.student.taps["stage3"] = (3 * maps.flip(2).mT).repeat(1, 1, 1, 2).detach()
    assert method.losses(step).transfer["ickd"].item() == pytest.approx(0.0, abs=1e-6)


def test_silent_channels_give_a_finite_gradient(make_ickd: MakeIckd, look: Look) -> None:
    method = make_ickd("resnet8", "resnet14")
    method.projector = nn.Identity()
    step = look(method)
    step.student.taps["stage3"] = torch.zeros_like(step.student.taps["stage3"]).requires_grad_()
    method.losses(step).transfer["ickd"].backward()
    assert not step.student.taps["stage3"].grad.any()


def test_it_stands_beside_the_terms_of_the_predictions(make_ickd: MakeIckd, look: Look) -> None:
    method = make_ickd()
    assert list(method.losses(look(method)).terms()) == ["task", "kd", "ickd"]
    alone = make_ickd(kd_weight=0.0)
    assert not alone.reads_teacher_logits
    assert list(alone.losses(look(alone)).terms()) == ["task", "ickd"]
