from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdctl.methods.aekd_f import AdaptiveHints, AdaptiveHintsConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2])
LINEAR = Spec(kind="projector", name="linear", options=NoOptions())

MakeMethod = Callable[..., AdaptiveHints]


@pytest.fixture
def make_method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(student: str, *teachers: str, **options: Any) -> AdaptiveHints:
        return AdaptiveHints(AdaptiveHintsConfig(projector=LINEAR, **options), make_setup(student, *teachers))

    return build


def test_hints_are_weighed_by_the_directions_of_their_gradients(
    make_method: MakeMethod,
    draw_outputs: Callable[..., tuple[Outputs, ...]],
    make_step: Callable[..., Step],
) -> None:
    """Of two teachers without a bound, the weights have a closed form; gradients by differentiation."""
    method = make_method("resnet8", "resnet14", "wrn_16_2", max_weight=1.0)
    step = make_step(LABELS, *draw_outputs(method, 3))
    maps = step.student.taps["stage2"]
    losses = method.losses(step)
    losses.transfer["hint"].backward()

    leaf = maps.detach().double().requires_grad_()
    hints = [
        (copy.deepcopy(project).double()(leaf) - teacher.taps[tap].double()).square().mean()
        for project, teacher, (tap,) in zip(
            method.projectors, step.teachers, method.teacher_taps, strict=True
        )
    ]
    gradients = [
        torch.autograd.grad(hint, leaf, retain_graph=True)[0].mean(dim=0).flatten() for hint in hints
    ]
    sizes = [gradient.norm() for gradient in gradients]
    # Two unit vectors count alike where their mean is shortest: what is left are their lengths.
    weights = [float(1 / size / sum(1 / other for other in sizes)) for size in sizes]
    expected = 100 * sum(weight * hint for weight, hint in zip(weights, hints, strict=True))
    expected.backward()
    assert losses.transfer["hint"].item() == pytest.approx(expected.item(), rel=1e-4)
    scale = leaf.grad.abs().max().item()
    torch.testing.assert_close(maps.grad, leaf.grad, rtol=1e-3, atol=1e-4 * scale, check_dtype=False)
    assert [losses.metrics[f"weight_{place}"].item() for place in (1, 2)] == pytest.approx(weights, rel=1e-3)


def test_teachers_whose_hints_are_met_do_not_break_the_others(
    make_method: MakeMethod,
    draw_outputs: Callable[..., tuple[Outputs, ...]],
    make_step: Callable[..., Step],
) -> None:
    method = make_method("resnet8", "resnet14", "resnet20")
    method.projectors[0] = method.hints[0].connector
    student, first, second = draw_outputs(method, 3)
    with torch.no_grad():
        first.taps["stage2"] = method.hints[0].connector(student.taps["stage2"]).clone()
    losses = method.losses(make_step(LABELS, student, first, second))
    losses.total().backward()
    assert losses.total().isfinite()
    assert all(metric.isfinite() for metric in losses.metrics.values())
    assert student.taps["stage2"].grad is not None
    assert student.taps["stage2"].grad.isfinite().all()
    assert isinstance(method.projectors, nn.ModuleList)
