from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.fsp import FlowOfSolutionProcedure, FspConfig
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2])
LINEAR = Spec(kind="projector", name="linear", options=NoOptions())

MakeFsp = Callable[..., FlowOfSolutionProcedure]
Look = Callable[[FlowOfSolutionProcedure], Step]


@pytest.fixture
def make_fsp(make_setup: Callable[..., Setup]) -> MakeFsp:
    def build(student: str = "resnet8", teacher: str = "resnet14", **options: Any) -> FlowOfSolutionProcedure:
        return FlowOfSolutionProcedure(FspConfig(projector=LINEAR, **options), make_setup(student, teacher))

    return build


@pytest.fixture
def look(make_step: Callable[..., Step]) -> Look:
    """Draw the maps that the method reads; the student's have gradients."""

    def outputs(backbone: Backbone, seed: int) -> Outputs:
        random = torch.Generator().manual_seed(seed)
        maps = {
            tap: torch.randn(3, *backbone.tap_shapes[tap], generator=random).requires_grad_()
            for tap in ("stem", *backbone.stage_taps)
        }
        return Outputs(logits=torch.randn(3, 5, generator=random), taps=maps)

    return lambda method: make_step(LABELS, outputs(method.student, 0), outputs(method.setup.teacher, 1))


def plain_flow(first: Tensor, second: Tensor) -> Tensor:
    """Restate the flow between two maps of one sample, channel by channel."""
    size = tuple(min(pair) for pair in zip(first.shape[1:], second.shape[1:], strict=True))
    first, second = (nn.AdaptiveAvgPool2d(size)(maps) for maps in (first, second))
    return torch.stack([torch.stack([(own * other).mean() for other in second]) for own in first])


@pytest.mark.extended
def test_value_and_gradient_are_those_of_the_formula(make_fsp: MakeFsp, look: Look) -> None:
    method = make_fsp(fsp_weight=3.0, init_share=0.0)
    step = look(method)
    loss = method.losses(step).transfer["fsp"]
    loss.backward()

    leaves = {tap: maps.detach().double().requires_grad_() for tap, maps in step.student.taps.items()}
    targets = {tap: maps.detach().double() for tap, maps in step.teachers[0].taps.items()}
    expected = torch.zeros((), dtype=torch.float64)
    for first, second in (("stem", "stage1"), ("stage1", "stage2"), ("stage2", "stage3")):
        gaps = [
            plain_flow(leaves[first][b], leaves[second][b])
            - plain_flow(targets[first][b], targets[second][b])
            for b in range(3)
        ]
        expected = expected + 3 * torch.stack(gaps).square().mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for tap, maps in step.student.taps.items():
        torch.testing.assert_close(maps.grad, leaves[tap].grad, rtol=1e-3, atol=1e-6, check_dtype=False)


def test_only_differing_widths_get_a_projector(make_fsp: MakeFsp) -> None:
    assert not list(make_fsp("resnet8", "resnet14").projectors.parameters())
    mixed = make_fsp("resnet8", "wrn_16_2")
    assert [bool(list(module.parameters())) for module in mixed.projectors] == [False, True, True, True]


def test_positions_may_be_swapped(make_fsp: MakeFsp, look: Look) -> None:
    """Flows are sums over positions: where things happen does not matter, as long as it is together."""
    method = make_fsp(init_share=0.0)
    step = look(method)
    before = method.losses(step).transfer["fsp"].item()
    for tap, maps in step.student.taps.items():
        step.student.taps[tap] = maps.detach().flip(2)
    assert method.losses(step).transfer["fsp"].item() == pytest.approx(before, rel=1e-5)


def test_flows_come_alone_first_and_are_dropped_after(make_fsp: MakeFsp, look: Look) -> None:
    method = make_fsp("resnet8", "wrn_16_2", init_share=0.25)
    first, second = method.phases()
    assert (first.share, second.share) == (0.25, 0.75)
    step = look(method)
    method.begin(first)
    assert list(method.losses(step).terms()) == ["fsp"]
    trained = {name.split(".")[0] for name, one in method.named_parameters() if one.requires_grad}
    assert trained == {"student", "projectors"}
    assert not method.student.classifier.weight.requires_grad
    method.begin(second)
    assert list(method.losses(step).terms()) == ["task"]
    assert method.matches() == ()
    trained = {name for name, one in method.named_parameters() if one.requires_grad}
    assert trained == {f"student.{name}" for name, _ in method.student.named_parameters()}


def test_with_a_share_of_zero_all_terms_stand_together(make_fsp: MakeFsp, look: Look) -> None:
    method = make_fsp(init_share=0.0, kd_weight=1.0)
    assert list(method.losses(look(method)).terms()) == ["task", "kd", "fsp"]
