from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.losses.soft_targets import other_classes_kl, target_class_kl
from kdctl.methods.projector import ProjectorConfig, ProjectorDistillation, mean_correlation, standardise
from kdctl.projectors.linear import LinearProjector
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
LINEAR = Spec(kind="projector", name="linear", options=NoOptions())
MakeMethod = Callable[..., ProjectorDistillation]


@pytest.fixture
def make_method(make_setup: Callable[..., Setup]) -> MakeMethod:
    """Build the method around ResNet-8 (64 features) and ResNet-8x4 (256)."""

    def build(**options: Any) -> ProjectorDistillation:
        config = ProjectorConfig(**{"projector": LINEAR, "kd_weight": 0.0} | options)
        return ProjectorDistillation(config, make_setup("resnet8", "resnet8x4"))

    return build


@pytest.fixture
def step(make_step: Callable[..., Step]) -> Step:
    random = torch.Generator().manual_seed(0)
    student = torch.randn(6, 64, generator=random, requires_grad=True)
    logits = [2 * torch.randn(6, 5, generator=random) for _ in range(2)]
    return make_step(
        LABELS,
        Outputs(logits=logits[0], taps={"pooled": student}),
        Outputs(logits=logits[1], taps={"pooled": 3 * torch.randn(6, 256, generator=random) + 1}),
    )


def plain_norm(features: Tensor, norm: str) -> Tensor:
    if norm == "batch":
        mean = features.sum(dim=0) / len(features)
        variance = (features - mean).square().sum(dim=0) / len(features)
        return (features - mean) / (variance + 1e-4).sqrt()
    return features / features.square().sum(dim=1, keepdim=True).sqrt() if norm == "l2" else features


def plain_distance(student: Tensor, teacher: Tensor, layer: nn.Module, norm: str, power: float) -> Tensor:
    """Restate log( sum over batch and features of |difference|^power ) less log(B), in float64."""
    weight, bias = (parameter.detach().double() for parameter in layer.parameters())
    projected = plain_norm(student.double() @ weight.flatten(1).T + bias, norm)
    target, total = plain_norm(teacher.double(), norm), torch.zeros((), dtype=torch.float64)
    for b in range(6):
        for d in range(256):
            total = total + (projected[b, d] - target[b, d]).abs() ** power
    return total.log() - torch.tensor(6.0).log()


@pytest.mark.parametrize(("norm", "power"), [("batch", 4.0), ("l2", 2.0), ("none", 3.0)])
def test_value_and_gradient_are_those_of_the_formula(
    make_method: MakeMethod, step: Step, norm: str, power: float
) -> None:
    method = make_method(norm=norm, power=power)
    assert isinstance(method.projector, LinearProjector)
    ours, theirs = step.student.taps["pooled"], step.teachers[0].taps["pooled"]
    again = ours.detach().clone().requires_grad_()
    losses = method.losses(step)
    expected = 2 * plain_distance(again, theirs, method.projector, norm, power)
    losses.transfer["projector"].backward()
    expected.backward()
    assert list(losses.terms()) == ["task", "projector"]
    assert losses.transfer["projector"].item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(ours.grad, again.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("count", [2, 6])
def test_features_have_mean_0_and_variance_1_over_any_batch(step: Step, count: int) -> None:
    standard = standardise(100 * step.teachers[0].taps["pooled"][:count])
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(256), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard.var(dim=0, correction=0), torch.ones(256), rtol=1e-3, atol=0)


def test_scale_and_shift_of_the_teachers_features_do_not_matter(make_method: MakeMethod, step: Step) -> None:
    method = make_method()
    theirs = step.teachers[0].taps["pooled"]
    moved = Outputs(logits=None, taps={"pooled": 50 * theirs - 7})
    expected = method.losses(step).transfer["projector"]
    assert method.losses(dataclasses.replace(step, teachers=(moved,))).transfer[
        "projector"
    ].item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_perfect_student_gets_a_finite_gradient(make_method: MakeMethod, step: Step) -> None:
    method = make_method()
    student = step.student.taps["pooled"]
    with torch.no_grad():
        perfect = method.projector(student[:, :, None, None]).flatten(1)
    total = method.losses(
        dataclasses.replace(step, teachers=(Outputs(logits=None, taps={"pooled": perfect}),))
    ).transfer["projector"]
    total.backward()
    assert total.item() == pytest.approx(2 * torch.tensor(1e-5).log().item(), rel=1e-3)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_the_weight_of_dkd_adds_its_two_terms_warmed_up(make_method: MakeMethod, step: Step) -> None:
    method = make_method(dkd_weight=0.5)
    logits, teacher_logits = step.student.require_logits(), step.teachers[0].require_logits()
    full = 0.5 * (
        target_class_kl(logits, teacher_logits, LABELS, 4.0)
        + 8 * other_classes_kl(logits, teacher_logits, LABELS, 4.0)
    )
    for progress, growth in ((0.0, 0.0), (10 / 240, 0.5), (0.7, 1.0)):
        terms = method.losses(dataclasses.replace(step, progress=torch.tensor(progress))).transfer
        assert list(terms) == ["projector", "dkd"]
        assert terms["dkd"].item() == pytest.approx(growth * full.item(), rel=1e-5)


def test_teacher_logits_are_run_where_a_term_reads_them(make_method: MakeMethod) -> None:
    assert not make_method().reads_teacher_logits
    assert make_method(kd_weight=1.0).reads_teacher_logits
    assert make_method(dkd_weight=1.0).reads_teacher_logits


def test_outputs_that_repeat_an_input_correlate_with_it_alone() -> None:
    inputs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert float(mean_correlation(inputs, -3 * inputs)) == pytest.approx(0.5, abs=1e-3)
    assert float(mean_correlation(inputs, inputs[:, :1] + 2)) == pytest.approx(0.5, abs=1e-3)


def test_a_watched_projector_tells_its_singular_values_and_changes_nothing_else(
    make_method: MakeMethod, step: Step
) -> None:
    torch.manual_seed(0)
    plain = make_method()
    torch.manual_seed(0)
    watched = make_method(watch_projector=True)
    watched.load_state_dict(plain.state_dict())
    told = watched.epoch_metrics()
    weight = next(watched.projector.parameters()).detach().flatten(1)
    values = torch.linalg.svdvals(weight)
    assert len(told) == 16
    assert told["singular_value_1"] == pytest.approx(float(values[0]), rel=1e-4)
    assert told["singular_value_64"] == pytest.approx(float(values[-1]), rel=1e-3)
    assert plain.epoch_metrics() == {}
    with torch.no_grad():
        next(watched.projector.parameters()).view(-1)[0] = torch.inf
    assert watched.epoch_metrics() == {}
    watched.load_state_dict(plain.state_dict())
    losses = watched.losses(step)
    assert list(losses.metrics) == ["input_output_correlation"]
    assert torch.equal(losses.total(), plain.losses(step).total())
