from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.vid import VariationalInformationConfig, VariationalInformationDistillation
from kdctl.projectors.perceptron import PerceptronConfig
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec

LABELS = torch.tensor([0, 4, 2])
PAIRED = {
    ("resnet8", "resnet14"): (("stage1", "stage1"), ("stage2", "stage2"), ("stage3", "stage3")),
    ("mobilenetv2", "resnet14"): (
        ("stage1", "stage1"),
        ("stage2", "stage2"),
        ("stage3", "stage2"),
        ("stage4", "stage3"),
    ),
}

MakeVid = Callable[..., VariationalInformationDistillation]
Look = Callable[[VariationalInformationDistillation], Step]


@pytest.fixture
def make_vid(make_setup: Callable[..., Setup]) -> MakeVid:
    def build(
        student: str = "resnet8", teacher: str = "resnet14", **options: float
    ) -> VariationalInformationDistillation:
        spec = Spec(kind="projector", name="perceptron", options=PerceptronConfig())
        config = VariationalInformationConfig(projector=spec, **options)
        return VariationalInformationDistillation(config, make_setup(student, teacher))

    return build


@pytest.fixture
def look(draw_stages: Callable[..., Step]) -> Look:
    return lambda method: draw_stages(method, LABELS, rectified=False)


def plain_surprise(mean: nn.Module, raw: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    """Restate -log of the normal density, channel by channel, without its constant, averaged."""
    pool = nn.AdaptiveAvgPool2d(
        tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    )
    predicted, target = mean(pool(student)), pool(teacher)
    total = torch.zeros((), dtype=torch.float64)
    for channel in range(target.shape[1]):
        variance = (1 + raw[channel].exp()).log() + 1e-5
        gap = predicted[:, channel] - target[:, channel]
        total = total + (gap**2 / (2 * variance) + variance.log() / 2).sum()
    return total / target.numel()


@pytest.mark.parametrize(("student", "teacher"), PAIRED)
def test_it_sums_the_stages_negative_log_likelihoods(
    make_vid: MakeVid, look: Look, student: str, teacher: str
) -> None:
    method = make_vid(student, teacher)
    for number, prediction in enumerate(method.predictions):
        nn.init.normal_(prediction.raw_variance, std=3.0, generator=torch.Generator().manual_seed(number))
    twins = copy.deepcopy(method.predictions).double()
    step = look(method)
    loss = method.losses(step).transfer["vid"]
    loss.backward()

    leaves = {tap: maps.detach().double().requires_grad_() for tap, maps in step.student.taps.items()}
    targets = {tap: maps.detach().double() for tap, maps in step.teachers[0].taps.items()}
    expected = sum(
        plain_surprise(twin.mean, twin.raw_variance, leaves[own], targets[other])
        for twin, (own, other) in zip(twins, PAIRED[student, teacher], strict=True)
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for tap, maps in step.student.taps.items():
        torch.testing.assert_close(maps.grad, leaves[tap].grad, rtol=1e-3, atol=1e-5, check_dtype=False)
    for parameter, twin in zip(method.predictions.parameters(), twins.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("variance", [5.0, 0.01, 1e4])
def test_every_channel_starts_with_the_variance_asked_for(
    make_vid: MakeVid, look: Look, variance: float
) -> None:
    method = make_vid(initial_variance=variance)
    step = look(method)
    for prediction in method.predictions:
        prediction.mean = nn.Module()
        prediction.mean.forward = torch.zeros_like
    step.student.taps.update({tap: maps.detach() for tap, maps in step.teachers[0].taps.items()})
    squares = [maps.double().square().mean().item() for maps in step.teachers[0].taps.values()]
    expected = sum((square / variance + math.log(variance)) / 2 for square in squares)
    assert method.losses(step).transfer["vid"].item() == pytest.approx(expected, rel=1e-4)


def test_the_variances_are_trained_to_those_of_the_errors(make_vid: MakeVid, look: Look) -> None:
    """One public port leaves them out of the optimizer; there the likelihood cannot grow this way."""
    method = make_vid()
    step = look(method)
    raw = [prediction.raw_variance for prediction in method.predictions]
    trained = {id(parameter) for parameter in method.parameters()}
    assert all(id(parameter) in trained for parameter in raw)
    optimizer = torch.optim.Adam(raw, lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(method.losses(step).transfer["vid"])
        optimizer.step()
    prediction, maps = method.predictions[2], step.student.taps["stage3"]
    error = (prediction.mean(maps) - step.teachers[0].taps["stage3"]).square().mean(dim=(0, 2, 3))
    learned = nn.functional.softplus(prediction.raw_variance) + 1e-5
    torch.testing.assert_close(learned, error, rtol=0.1, atol=0.01)


def test_confidence_is_worth_a_negative_loss_when_the_prediction_is_right(
    make_vid: MakeVid, look: Look
) -> None:
    method = make_vid("resnet14", "resnet14")
    for prediction in method.predictions:
        prediction.mean = nn.Identity()
        nn.init.constant_(prediction.raw_variance, -200.0)  # a plain log(1 + exp) would give log(0)
    step = look(method)
    step.student.taps.update(step.teachers[0].taps)
    expected = 3 * math.log(1e-5) / 2
    assert method.losses(step).transfer["vid"].item() == pytest.approx(expected, rel=1e-4)


def test_it_stands_beside_the_terms_of_the_predictions(make_vid: MakeVid, look: Look) -> None:
    method = make_vid()
    assert list(method.losses(look(method)).terms()) == ["task", "kd", "vid"]
    alone = make_vid(kd_weight=0.0)
    assert not alone.reads_teacher_logits
    assert list(alone.losses(look(alone)).terms()) == ["task", "vid"]
