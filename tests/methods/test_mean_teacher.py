from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step

LABELS = torch.tensor([0, 4, 2])

MakeMethod = Callable[..., MeanTeacher]


@pytest.fixture
def make_method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(**options: Any) -> MeanTeacher:
        return MeanTeacher(MeanTeacherConfig(**options), make_setup())

    return build


def drawn(seed: int) -> Tensor:
    return 2 * torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("progress", [0.0, 0.1, 0.2, 1.0])
@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_value_and_gradient_are_those_of_the_formula(
    make_method: MakeMethod,
    make_step: Callable[..., Step],
    predicting: Callable[[Tensor], nn.Module],
    distance: str,
    progress: float,
) -> None:
    method = make_method(distance=distance, kd_weight=3.0, temperature=2.0)
    target = drawn(2)
    method.mean.model = predicting(target)  # type: ignore[assignment]
    own = drawn(1).requires_grad_()
    step = make_step(LABELS, Outputs(logits=own))
    object.__setattr__(step, "progress", torch.tensor(progress, dtype=torch.float64))
    losses = method.losses(step)
    losses.total().backward()

    leaf = drawn(1).requires_grad_()
    if distance == "kl":
        p, q = (target / 2).softmax(dim=1), (leaf / 2).softmax(dim=1)
        gap = 4 * (p * (p / q).log()).sum() / 3
    else:
        gap = (target.softmax(dim=1) - leaf.softmax(dim=1)).square().sum() / 15
    growth = math.exp(-5 * (1 - min(progress / 0.2, 1.0)) ** 2)
    expected = functional.cross_entropy(leaf, LABELS) + 3 * growth * gap
    expected.backward()
    torch.testing.assert_close(losses.total(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(own.grad, leaf.grad, rtol=1e-10, atol=1e-15)


def test_the_average_follows_the_student(make_method: MakeMethod, make_step: Callable[..., Step]) -> None:
    method = make_method(decay=0.75)
    first = method.student.classifier.weight.detach().clone()
    step = make_step(LABELS, Outputs(logits=drawn(1)))
    followed = first
    for count in range(1, 6):
        with torch.no_grad():
            method.student.classifier.weight.add_(1.0)
        method.after_update(step)
        decay = min(1 - 1 / (count + 1), 0.75)
        followed = decay * followed + (1 - decay) * (first + count)
    average: Any = method.mean.model
    torch.testing.assert_close(average.classifier.weight, followed)


@pytest.mark.parametrize(("ships", "other"), [("average", "student"), ("student", "average")])
def test_one_of_both_is_shipped_and_the_other_is_a_model_of_the_run(
    make_method: MakeMethod, ships: str, other: str
) -> None:
    method = make_method(ships=ships)
    both = {"student": method.student, "average": method.mean.model}
    assert method.inference_model() is both[ships]
    assert {model.name: model.module for model in method.models()} == {other: both[other]}
    assert method.ships_student(method.config) is (ships == "student")


@pytest.mark.parametrize("batch_statistics", [True, False])
def test_the_average_has_running_statistics_of_its_own_if_it_normalises_by_the_batch(
    make_method: MakeMethod, make_step: Callable[..., Step], batch_statistics: bool
) -> None:
    """The average's weights are not the student's: neither are the means of its maps."""
    method = make_method(batch_statistics=batch_statistics, decay=0.9).train()
    own, average = (next(norms(model)) for model in (method.student, method.mean.model))
    assert own.running_mean is not None
    assert average.running_mean is not None
    own.running_mean.add_(1.0)  # what the student's forward pass does
    step = make_step(LABELS, Outputs(logits=drawn(1)))
    step.batch.images.normal_(generator=torch.Generator().manual_seed(0))
    first = average.running_mean.clone()
    method.losses(step)
    moved = average.running_mean.clone()
    assert torch.equal(moved, first) is not batch_statistics
    method.after_update(step)
    assert torch.equal(average.running_mean, moved if batch_statistics else own.running_mean)


def norms(model: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
