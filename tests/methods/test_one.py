from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.methods.one import NativeEnsemble, NativeEnsembleConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeOne = Callable[..., NativeEnsemble]


@pytest.fixture
def make_one(make_setup: Callable[..., Setup]) -> MakeOne:
    def build(student: str = "resnet8", **options: Any) -> NativeEnsemble:
        setup = replace(make_setup(student), student_name=student)
        return NativeEnsemble(NativeEnsembleConfig(**options), setup)

    return build


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("progress", [0.1, 0.8])
@pytest.mark.parametrize("num_branches", [2, 3])
def test_value_and_gradient_are_those_of_the_formula(
    make_one: MakeOne, make_step: Callable[..., Step], num_branches: int, progress: float
) -> None:
    method = make_one(num_branches=num_branches, kd_weight=0.7, warmup_share=0.4).double().eval()
    random = torch.Generator().manual_seed(0)
    shape = method.student.tap_shapes["stage2"]
    features = torch.randn(3, *shape, generator=random, dtype=torch.float64).relu().requires_grad_()
    own = torch.randn(3, 5, generator=random, dtype=torch.float64).requires_grad_()
    step = make_step(LABELS, Outputs(logits=own, taps={"stage2": features}))
    step = replace(step, progress=torch.tensor(progress, dtype=torch.float64))
    losses = method.losses(step)
    found = torch.autograd.grad(losses.total(), [features, own, *method.gate.parameters()])

    branches = [own, *(branch(features) for branch in method.branches)]
    linear, norm = method.gate[0], method.gate[1]
    shares = norm(linear(features.mean(dim=(2, 3)))).clamp(min=0).softmax(dim=1)
    together = sum((shares[:, [place]] * each for place, each in enumerate(branches)), torch.zeros(()))
    growth = math.exp(-5 * (1 - min(progress / 0.4, 1)) ** 2)
    expected = functional.cross_entropy(together, LABELS)
    target = (together.detach() / 3).softmax(dim=1)
    for each in branches:
        expected = expected + functional.cross_entropy(each, LABELS)
        divergence = (target * (target / (each / 3).softmax(dim=1)).log()).sum() / 3
        expected = expected + 0.7 * growth * 9 * divergence
    wanted = torch.autograd.grad(expected, [features, own, *method.gate.parameters()])
    torch.testing.assert_close(losses.total(), expected)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right)


def test_the_ensemble_is_a_model_of_the_run_and_the_student_is_shipped(make_one: MakeOne) -> None:
    method = make_one().eval()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (ensemble,) = method.models()
    outputs = method.student.observe(images, ("stage2",))
    features = outputs.taps["stage2"]
    shares = method.gate(features.mean(dim=(2, 3)))
    logits: list[Tensor] = [outputs.require_logits(), *(branch(features) for branch in method.branches)]
    expected = sum((shares[:, [place]] * each for place, each in enumerate(logits)), torch.zeros(()))
    torch.testing.assert_close(ensemble.module(images), expected)
    assert method.inference_model() is method.student


def test_branches_are_drawn_apart(make_one: MakeOne) -> None:
    method = make_one(num_branches=3)
    tails = [method.student.tail("stage2"), *method.branches]
    weights = [next(parameter for parameter in tail.parameters() if parameter.dim() == 4) for tail in tails]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_a_student_that_cannot_be_drawn_again_is_refused(make_setup: Callable[..., Setup]) -> None:
    with pytest.raises(KdctlError, match="a model without a name"):
        NativeEnsemble(NativeEnsembleConfig(), make_setup("resnet8"))
