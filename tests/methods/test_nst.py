from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.nst import NeuronSelectivityConfig, NeuronSelectivityTransfer
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4])
PAIRED = {
    ("resnet6", "resnet6"): (("stage1", "stage1"), ("stage2", "stage2")),
    ("resnet6", "resnet14"): (("stage1", "stage1"), ("stage1", "stage2"), ("stage2", "stage3")),
    ("mobilenetv2", "resnet6"): (
        ("stage1", "stage1"),
        ("stage2", "stage1"),
        ("stage3", "stage2"),
        ("stage4", "stage2"),
    ),
}

MakeNst = Callable[..., NeuronSelectivityTransfer]
Look = Callable[[NeuronSelectivityTransfer], Step]


@pytest.fixture
def make_nst(make_setup: Callable[..., Setup]) -> MakeNst:
    def build(student: str, teacher: str, **options: float) -> NeuronSelectivityTransfer:
        return NeuronSelectivityTransfer(NeuronSelectivityConfig(**options), make_setup(student, teacher))

    return build


@pytest.fixture
def look(draw_stages: Callable[..., Step]) -> Look:
    return lambda method: draw_stages(method, LABELS)


def plain_moments(neurons: Tensor) -> Tensor:
    """Restate the mean of x x^T over the neurons [C, D] of one sample, each divided by its length."""
    directions = [neuron / (neuron @ neuron).sqrt() for neuron in neurons if neuron.any()]
    return sum(torch.outer(direction, direction) for direction in directions) / len(neurons)


def plain_discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Restate MMD^2 of the kernel (x . y)^2, sample by sample: the distance of the second moments."""
    pool = nn.AdaptiveAvgPool2d(
        tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    )
    samples = zip(pool(student).flatten(2), pool(teacher).flatten(2), strict=True)
    gaps = [plain_moments(own) - plain_moments(other) for own, other in samples]
    return sum(gap.pow(2).sum() for gap in gaps) / len(gaps)


@pytest.mark.parametrize(("student", "teacher"), PAIRED)
def test_it_averages_the_discrepancies_of_all_stages(
    make_nst: MakeNst, look: Look, student: str, teacher: str
) -> None:
    method = make_nst(student, teacher)
    step = look(method)
    loss = method.losses(step).transfer["nst"]
    loss.backward()

    leaves = {tap: maps.detach().double().requires_grad_() for tap, maps in step.student.taps.items()}
    targets = {tap: maps.detach().double() for tap, maps in step.teachers[0].taps.items()}
    pairs = PAIRED[student, teacher]
    expected = 50 * sum(plain_discrepancy(leaves[own], targets[other]) for own, other in pairs) / len(pairs)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for tap, maps in step.student.taps.items():
        torch.testing.assert_close(maps.grad, leaves[tap].grad, rtol=1e-3, atol=1e-5, check_dtype=False)


def test_neurons_may_be_swapped_scaled_and_doubled(make_nst: MakeNst, look: Look) -> None:
    method = make_nst("resnet6", "resnet6")
    step = look(method)
    for tap, maps in step.teachers[0].taps.items():
        step.student.taps[tap] = torch.cat((3 * maps, maps.flip(1)), dim=1).detach()
    assert method.losses(step).transfer["nst"].item() == pytest.approx(0.0, abs=1e-5)


def test_a_discrepancy_is_not_negative(make_nst: MakeNst, look: Look) -> None:
    method = make_nst("resnet6", "resnet6")
    step = look(method)
    for tap, maps in step.student.taps.items():
        step.student.taps[tap] = (maps + 100).detach()
    assert method.losses(step).transfer["nst"].item() > 0


def test_a_silent_neuron_gives_a_finite_gradient(make_nst: MakeNst, look: Look) -> None:
    method = make_nst("resnet6", "resnet6")
    step = look(method)
    maps = step.student.taps["stage2"].detach().clone()
    maps[:, 0] = 0
    maps[:, 1] = 1e-20
    step.student.taps["stage2"] = maps.requires_grad_()
    method.losses(step).total().backward()
    assert maps.grad is not None
    assert maps.grad.abs().max() < 100


def test_it_stands_beside_the_terms_of_the_predictions(make_nst: MakeNst, look: Look) -> None:
    method = make_nst("resnet6", "resnet6")
    assert list(method.losses(look(method)).terms()) == ["task", "kd", "nst"]
    alone = make_nst("resnet6", "resnet6", kd_weight=0.0)
    assert not alone.reads_teacher_logits
    assert list(alone.losses(look(alone)).terms()) == ["task", "nst"]


@pytest.mark.parametrize(("student", "teacher"), PAIRED)
def test_stages_can_be_summed_as_the_code_of_protocol_crd_does(
    make_nst: MakeNst, look: Look, student: str, teacher: str
) -> None:
    mean, total = make_nst(student, teacher), make_nst(student, teacher, over_stages="sum")
    step = look(mean)
    count = len(PAIRED[student, teacher])
    assert total.losses(step).transfer["nst"].item() == pytest.approx(
        count * mean.losses(step).transfer["nst"].item(), rel=1e-5
    )
    assert [match.weight for match in total.matches()] == [1.0] * count
