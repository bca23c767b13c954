from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.methods.kdcl import CollaborativeLearning, CollaborativeLearningConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeKdcl = Callable[..., CollaborativeLearning]


@pytest.fixture
def make_kdcl(make_setup: Callable[..., Setup], predicting: Callable[[Tensor], nn.Module]) -> MakeKdcl:
    """Build the method around peers whose logits are drawn."""

    def build(**options: Any) -> CollaborativeLearning:
        config = CollaborativeLearningConfig(peers=("resnet8", "resnet8"), **options)
        method = CollaborativeLearning(config, make_setup())
        random = torch.Generator().manual_seed(3)
        for place in range(2):
            method.peers[place] = predicting(2 * torch.randn(3, 5, generator=random, dtype=torch.float64))
        return method

    return build


@pytest.fixture
def step(make_step: Callable[..., Step]) -> Step:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return make_step(LABELS, Outputs(logits=logits.requires_grad_()))


def target_of(kind: str, logits: list[Tensor]) -> Tensor:
    """Return the target as the paper writes it, number by number."""
    if kind == "mean":
        return sum(logits) / len(logits)  # type: ignore[return-value]
    if kind == "naive":
        return min(logits, key=lambda each: float(functional.cross_entropy(each, LABELS)))
    rows = [
        [min(float(each[b, c] - each[b, label]) for each in logits) for c in range(5)]
        for b, label in enumerate(LABELS.tolist())
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("target", ["min_logit", "naive", "mean"])
def test_value_and_gradients_are_those_of_the_formula(make_kdcl: MakeKdcl, step: Step, target: str) -> None:
    method = make_kdcl(target=target, kd_weight=0.5)
    losses = method.losses(step)
    losses.total().backward()

    peers: Any = method.peers
    seen = [step.student.require_logits(), *(peer.logits for peer in peers)]
    leaves = [each.detach().clone().requires_grad_() for each in seen]
    common = (target_of(target, [leaf.detach() for leaf in leaves]) / 4).softmax(dim=1)
    expected = torch.zeros((), dtype=torch.float64)
    for own in leaves:
        divergence = (common * (common / (own / 4).softmax(dim=1)).log()).sum() / 3
        expected = expected + functional.cross_entropy(own, LABELS) + 0.5 * 16 * divergence
    expected.backward()
    torch.testing.assert_close(losses.total(), expected, rtol=1e-12, atol=0)
    for tensor, leaf in zip(seen, leaves, strict=True):
        torch.testing.assert_close(tensor.grad, leaf.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("in_double")
def test_the_smallest_distances_never_put_another_class_above_the_true_one_more_than_any_model(
    make_kdcl: MakeKdcl, step: Step
) -> None:
    method = make_kdcl()
    peers: Any = method.peers
    logits = torch.stack([step.student.require_logits().detach(), *(peer.logits.detach() for peer in peers)])
    loss = functional.cross_entropy(method._target(logits, step), LABELS)
    assert all(loss <= functional.cross_entropy(each, LABELS) for each in logits)


def test_the_student_is_shipped_and_peers_are_models_of_the_run(make_setup: Callable[..., Setup]) -> None:
    setup = replace(make_setup(), student_name="resnet8")
    method = CollaborativeLearning(CollaborativeLearningConfig(peers=("student", "resnet14")), setup)
    assert method.inference_model() is method.student
    assert [model.name for model in method.models()] == ["peer_1", "peer_2"]
