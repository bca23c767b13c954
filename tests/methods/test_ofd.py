from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.methods.ofd import (
    MarginRelu,
    OfdConfig,
    OverhaulOfFeatureDistillation,
    expected_negative,
    known_margin,
    measured_negative,
    partial_l2,
)
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Batch, Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeOfd = Callable[..., OverhaulOfFeatureDistillation]


def shaken(backbone: Backbone) -> Backbone:
    """Give batch norms scales (of either sign) and shifts, as training does."""
    torch.manual_seed(7)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.weight.data[::2] *= -1
            nn.init.normal_(module.bias)
    return backbone


@pytest.fixture
def make_ofd(make_setup: Callable[..., Setup]) -> MakeOfd:
    def build(
        student: str = "resnet8", teacher: str = "resnet14", **options: Any
    ) -> OverhaulOfFeatureDistillation:
        setup = make_setup(student, teacher)
        shaken(setup.teacher)
        return OverhaulOfFeatureDistillation(OfdConfig(**options), setup)

    return build


def look(method: OverhaulOfFeatureDistillation) -> Step:
    """Run both models as the engine would; the student's taps are leaves."""
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        student = method.student.eval().observe(images, method.student_taps)
        teacher = method.setup.teacher.observe(images, method.teacher_taps[0])
    taps = {name: features.requires_grad_() for name, features in student.taps.items()}
    return Step(
        batch=Batch(images=images, labels=LABELS, index=LABELS),
        student=Outputs(logits=student.logits, taps=taps),
        teachers=(teacher,),
        progress=torch.tensor(0.5),
        learning_rate=torch.tensor(0.1),
    )


def plain_margin(norm: nn.BatchNorm2d) -> Tensor:
    """Return E[x | x < 0] of N(shift, scale^2): m - s * pdf(m / s) / cdf(-m / s), [1, C, 1, 1]."""
    mean, deviation = norm.bias.double(), norm.weight.double().abs()
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    ratio = normal.log_prob(mean / deviation).exp() / normal.cdf(-mean / deviation)
    return (mean - deviation * ratio).detach()[None, :, None, None]


def plain_loss(method: OverhaulOfFeatureDistillation, taps: dict[str, Tensor], step: Step) -> Tensor:
    """Restate the paper for ResNets of three stages and equal sizes."""
    total = torch.zeros((), dtype=torch.float64)
    for place, connector in enumerate(method.connectors):
        stage = f"stage{place + 1}"
        block = method.setup.teacher.links[f"{stage}_pre"][-1]  # the second 3x3 convolution's batch norm
        margin = plain_margin(block.branch[1][1])
        features, target = taps[f"{stage}_pre"], step.teachers[0].taps[f"{stage}_pre"].double()
        weight, norm = connector.get_parameter("0.weight").double(), connector.get_submodule("1")
        aligned = torch.einsum("bchw,oc->bohw", features, weight[:, :, 0, 0])
        mean = aligned.mean((0, 2, 3), keepdim=True)
        variance = ((aligned - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scale, shift = (norm.get_parameter(name).double()[None, :, None, None] for name in ("weight", "bias"))
        student = (aligned - mean) / (variance + 1e-5).sqrt() * scale + shift
        cut = torch.maximum(target, margin)
        forgiven = (student <= cut) & (cut <= 0)
        squares = ((student - cut) ** 2) * (~forgiven)
        total = total + squares.sum() / len(squares) / 2 ** (2 - place)
    return total


def test_it_is_the_papers_partial_distance_from_the_margin_relu(make_ofd: MakeOfd) -> None:
    method = make_ofd(ofd_weight=0.01)
    step = look(method)
    loss = method.losses(step).transfer["ofd"]
    loss.backward()
    twins = {tap: leaf.detach().double().requires_grad_() for tap, leaf in step.student.taps.items()}
    expected = 0.01 * plain_loss(method, twins, step)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for tap, leaf in step.student.taps.items():
        assert leaf.grad is not None
        grad = twins[tap].grad
        assert grad is not None
        torch.testing.assert_close(leaf.grad.double(), grad, rtol=1e-3, atol=1e-4 * grad.abs().max().item())


def test_cross_entropy_stands_beside_it_and_divergence_on_request(make_ofd: MakeOfd) -> None:
    method = make_ofd()
    assert not method.reads_teacher_logits
    step = look(method)
    losses = method.losses(step)
    assert list(losses.terms()) == ["task", "ofd"]
    torch.testing.assert_close(losses.task, functional.cross_entropy(step.student.require_logits(), LABELS))
    with_kd = make_ofd(kd_weight=1.0)
    assert list(with_kd.losses(look(with_kd)).terms()) == ["task", "kd", "ofd"]


@pytest.mark.parametrize("teacher", ["resnet14", "wrn_16_2", "vgg8", "mobilenetv2", "shufflenetv1"])
def test_margins_come_from_the_batch_norm_that_gives_the_map(
    draw_model: Callable[[str], Backbone], teacher: str
) -> None:
    """Of a residual sum that of the branch, which is the last in it to be defined, shortcuts apart."""
    backbone = shaken(draw_model(teacher))
    for stage in backbone.stage_taps:
        tap = f"{stage}_pre" if f"{stage}_pre" in backbone.links else stage
        norms = {
            name: module
            for name, module in backbone.links[tap].named_modules()
            if isinstance(module, nn.BatchNorm2d) and "shortcut" not in name
        }
        margin = known_margin(backbone, tap)
        assert margin is not None
        *_, last = norms.values()
        torch.testing.assert_close(margin, plain_margin(last).flatten(), rtol=1e-6, atol=1e-6)


def test_where_channels_come_from_several_batch_norms_the_margin_is_measured(
    draw_model: Callable[[str], Backbone],
) -> None:
    assert known_margin(draw_model("shufflenetv2"), "stage1_pre") is None
    features = torch.tensor([[[[-1.0, 2.0], [-3.0, -2.0]]], [[[4.0, -6.0], [5.0, 1.0]]]])
    expected = features.clamp(min=-3.0)
    assert torch.equal(MarginRelu(None)(features), expected)


def test_what_is_below_every_margin_is_cut_off_there(make_ofd: MakeOfd) -> None:
    method = make_ofd()
    for module in method.margins:
        assert isinstance(module, MarginRelu)
        margin = module.margin
        assert margin is not None
        assert (margin <= 0).all()
        low = torch.full((2, margin.shape[1], 3, 3), -1e6)
        assert torch.equal(module(low), margin.expand_as(low))
        high = torch.rand(2, margin.shape[1], 3, 3)
        assert torch.equal(module(high), high)


@pytest.mark.parametrize(
    ("student", "teacher"), [("mobilenetv2", "resnet8"), ("wrn_16_2", "vgg8"), ("resnet3", "shufflenetv2")]
)
def test_maps_of_other_sizes_and_numbers_are_brought_together(
    make_ofd: MakeOfd, student: str, teacher: str
) -> None:
    method = make_ofd(student, teacher)
    assert {own for own, _ in method.pairs} == set(method.student_taps)
    assert len(method.connectors) == max(len(method.student.stage_taps), len(method.setup.teacher.stage_taps))
    assert method.losses(look(method)).total().isfinite()


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, 0.5), (-1.3, 2.0), (4.0, 1.0)])
def test_the_margin_is_the_mean_of_a_normal_variable_where_it_is_negative(
    mean: float, deviation: float
) -> None:
    """By summing x * pdf(x) over a fine grid below zero."""
    grid = torch.arange(-40.0, 0.0, 1e-4, dtype=torch.float64)
    density = (-((grid - mean) ** 2) / (2 * deviation**2)).exp()
    expected = (grid * density).sum() / density.sum()
    margin = expected_negative(torch.tensor(mean), torch.tensor(deviation))
    assert margin.item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_margin_stays_finite_and_not_above_zero_at_the_edges() -> None:
    means = torch.tensor([100.0, 1e6, -100.0, 0.0, 3.0, -3.0])
    deviations = torch.tensor([1.0, 1e-3, 1e-3, 0.0, 0.0, 0.0])
    margins = expected_negative(means, deviations)
    expected = torch.tensor([-1 / 30, 0.0, -100.0, 0.0, 0.0, -3.0], dtype=torch.float64)
    torch.testing.assert_close(margins, expected, rtol=1e-2, atol=1e-4)
    assert (margins <= 0).all()


def test_many_samples_measure_what_the_batch_norm_tells() -> None:
    features = 0.5 + 2.0 * torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    measured = measured_negative(features)
    assert measured.shape == (1, 1, 1, 1)
    assert measured.item() == pytest.approx(
        expected_negative(torch.tensor(0.5), torch.tensor(2.0)).item(), rel=0.02
    )


def test_a_channel_without_negative_values_has_margin_zero() -> None:
    features = torch.tensor([[1.0, -2.0], [3.0, -4.0]])[:, :, None, None]
    assert measured_negative(features).flatten().tolist() == [0.0, -3.0]


def test_partial_l2_forgives_what_lies_below_a_target_that_is_not_positive() -> None:
    cases = [  # student, teacher, counted
        (-3.0, -1.0, 0.0),
        (-0.5, -1.0, 0.25),
        (2.0, -1.0, 9.0),
        (-3.0, 1.0, 16.0),
        (0.5, 1.0, 0.25),
        (2.0, 1.0, 1.0),
        (-1.0, 0.0, 0.0),
    ]
    for own, other, counted in cases:
        student, teacher = (torch.full((3, 2, 2, 2), value) for value in (own, other))
        assert partial_l2(student, teacher).item() == pytest.approx(8 * counted), (own, other)


def test_partial_l2_is_a_mean_over_samples_of_sums_with_gradient_only_where_it_counts() -> None:
    random = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, 2, 2, generator=random).requires_grad_()
    teacher = torch.randn(3, 4, 2, 2, generator=random)
    total = math.fsum(
        (s - t) ** 2
        for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
        if not s <= t <= 0
    )
    loss = partial_l2(student, teacher)
    assert loss.item() == pytest.approx(total / 3, rel=1e-5)
    loss.backward()
    assert student.grad is not None
    forgiven = (student <= teacher) & (teacher <= 0)
    expected = torch.where(forgiven, 0.0, 2 * (student - teacher) / 3)
    torch.testing.assert_close(student.grad, expected)
