from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.registry import NoOptions


@pytest.fixture
def method(make_setup: Callable[..., Setup]) -> CrossEntropy:
    return CrossEntropy(NoOptions(), make_setup("resnet8"))


def test_it_is_the_mean_negative_log_probability_of_the_labels(
    method: CrossEntropy, make_step: Callable[..., Step]
) -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 4, 2, 2])
    losses = method.losses(make_step(labels, Outputs(logits=logits)))
    assert losses.task is not None
    losses.total().backward()

    value, gradient = 0.0, []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(entry) for entry in row)
        value -= math.log(math.exp(row[label]) / total) / 4
        gradient.append([(math.exp(z) / total - (place == label)) / 4 for place, z in enumerate(row)])
    assert losses.task.item() == pytest.approx(value, rel=1e-5)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor(gradient))


def test_without_knowledge_it_is_the_logarithm_of_the_number_of_classes(
    method: CrossEntropy, make_step: Callable[..., Step]
) -> None:
    losses = method.losses(make_step(torch.tensor([0, 1, 2]), Outputs(logits=torch.zeros(3, 5))))
    assert losses.total().item() == pytest.approx(math.log(5))


def test_it_has_no_teacher_and_one_term(method: CrossEntropy, make_step: Callable[..., Step]) -> None:
    losses = method.losses(make_step(torch.tensor([0]), Outputs(logits=torch.zeros(1, 5))))
    assert list(losses.terms()) == ["task"]
    assert method.num_teachers == (0, 0)
    assert method.inference_model() is method.student
