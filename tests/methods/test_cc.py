from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.cc import (
    CorrelationCongruence,
    CorrelationCongruenceConfig,
    gaussian_correlations,
    neighbouring_differences,
)
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2, 2, 1])
MakeCc = Callable[..., CorrelationCongruence]


@pytest.fixture
def make_cc(make_setup: Callable[..., Setup]) -> MakeCc:
    """Build the method around ResNet-8 (64 features) and ResNet-8x4 (256)."""

    def build(**options: Any) -> CorrelationCongruence:
        config = CorrelationCongruenceConfig(kd_weight=0.0, **options)
        return CorrelationCongruence(config, make_setup("resnet8", "resnet8x4"))

    return build


@pytest.fixture
def step(make_step: Callable[..., Step]) -> Step:
    random = torch.Generator().manual_seed(0)
    student = torch.randn(5, 64, generator=random, requires_grad=True)
    return make_step(
        LABELS,
        Outputs(logits=torch.zeros(5, 5), taps={"pooled": student}),
        Outputs(logits=None, taps={"pooled": 3 * torch.randn(5, 256, generator=random)}),
    )


def plain_embedding(features: Tensor, layer: nn.Linear) -> Tensor:
    return features.double() @ layer.weight.detach().double().T + layer.bias.detach().double()


def plain_neighbours(student: Tensor, teacher: Tensor) -> Tensor:
    """Restate mean_i sum_d |D_id| |D_(i+1)d|."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(student) - 1):
        for d in range(student.shape[1]):
            first, second = student[i, d] - teacher[i, d], student[i + 1, d] - teacher[i + 1, d]
            total = total + first.abs() * second.abs()
    return total / (len(student) - 1)


def plain_kernel(student: Tensor, teacher: Tensor) -> Tensor:
    """Restate 1/B^2 * sum_ij (k(t_i, t_j) - k(s_i, s_j))^2, k of second order with gamma 0.4."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(student)):
        for j in range(len(student)):
            kernels = []
            for e in (student, teacher):
                cosine = e[i] @ e[j] / ((e[i] @ e[i]).sqrt() * (e[j] @ e[j]).sqrt())
                kernels.append(math.exp(-0.8) * (1 + 0.8 * cosine + 0.8**2 / 2 * cosine**2))
            total = total + (kernels[0] - kernels[1]) ** 2
    return total / len(student) ** 2


@pytest.mark.parametrize(
    ("form", "plain"),
    [("embedding", plain_neighbours), ("kernel", plain_kernel)],
    ids=["embedding", "kernel"],
)
def test_value_and_gradient_are_those_of_the_formula(
    make_cc: MakeCc, step: Step, form: str, plain: Callable[[Tensor, Tensor], Tensor]
) -> None:
    method = make_cc(form=form, cc_weight=2.0)
    ours, theirs = step.student.taps["pooled"], step.teachers[0].taps["pooled"]
    again = ours.detach().clone().requires_grad_()
    losses = method.losses(step)
    expected = 2 * plain(
        plain_embedding(again, method.student_embedding), plain_embedding(theirs, method.teacher_embedding)
    )
    losses.transfer["cc"].backward()
    expected.backward()
    assert list(losses.terms()) == ["task", "cc"]
    assert losses.transfer["cc"].item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, again.grad, rtol=1e-4, atol=1e-7)


def test_by_default_it_is_the_form_of_published_tables(make_cc: MakeCc, step: Step) -> None:
    explicit = make_cc(form="embedding", cc_weight=0.02, embedding_width=128)
    assert make_cc().losses(step).transfer["cc"] == explicit.losses(step).transfer["cc"]


@pytest.mark.parametrize("form", ["embedding", "kernel"])
def test_the_teachers_embedding_is_trained_as_well(make_cc: MakeCc, step: Step, form: str) -> None:
    method = make_cc(form=form)
    method.losses(step).transfer["cc"].backward()
    for layer in (method.student_embedding, method.teacher_embedding):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum() > 0
        assert layer.out_features == 128


def test_a_matched_neighbour_hides_a_difference() -> None:
    teacher = torch.zeros(4, 3)
    student = torch.tensor([[5.0] * 3, [0.0] * 3, [5.0] * 3, [0.0] * 3])
    assert neighbouring_differences(student, teacher).item() == 0.0
    assert neighbouring_differences(student.roll(1, dims=1)[[0, 2, 1, 3]], teacher).item() == 25.0


def test_the_series_approaches_the_gaussian_kernel() -> None:
    embeddings = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    directions = embeddings / embeddings.norm(dim=1, keepdim=True)
    exact = (-0.4 * (directions[:, None] - directions[None]).square().sum(dim=2)).exp()
    gaps = [(gaussian_correlations(embeddings, 0.4, order) - exact).abs().max() for order in (1, 2, 3, 8)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-5
    assert gaps[1] < 0.05


def test_the_kernel_does_not_see_the_order_of_samples(make_cc: MakeCc, step: Step) -> None:
    embeddings = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    shuffled = gaussian_correlations(embeddings[order], 0.4, 2)
    torch.testing.assert_close(shuffled, gaussian_correlations(embeddings, 0.4, 2)[order][:, order])
