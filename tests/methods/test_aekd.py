from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from kdctl.errors import KdctlError
from kdctl.methods.aekd import AdaptiveEnsemble, AdaptiveEnsembleConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Losses, Setup, Step

LABELS = torch.tensor([0, 1, 2, 3])

MakeLosses = Callable[..., Losses]


@pytest.fixture
def drawn() -> list[Tensor]:
    """Logits of a student and of three teachers."""
    random = torch.Generator().manual_seed(0)
    return [scale * torch.randn(4, 5, generator=random) for scale in (1.0, 2.0, 3.0, 4.0)]


@pytest.fixture
def losses_of(make_setup: Callable[..., Setup], make_step: Callable[..., Step]) -> MakeLosses:
    def build(student: Tensor, *teachers: Tensor, **options: Any) -> Losses:
        setup = make_setup("resnet8", *(["resnet8"] * len(teachers)))
        method = AdaptiveEnsemble(AdaptiveEnsembleConfig(**options), setup)
        return method.losses(make_step(LABELS, *(Outputs(logits=one) for one in (student, *teachers))))

    return build


def plain_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Restate T^2 * KL at T = 4, mean over the batch."""
    p, q = (teacher / 4).softmax(dim=1), (student / 4).softmax(dim=1)
    return 16 * (p * (p / q).log()).sum() / len(student)


def plain_weights(gradients: np.ndarray, max_weight: float, *, normalise: bool) -> np.ndarray:
    """Restate the problem for a general solver."""
    sizes = np.linalg.norm(gradients, axis=1)
    vectors = gradients / sizes[:, None] if normalise else gradients / sizes.mean()
    count = len(vectors)
    found = minimize(
        lambda weights: ((weights @ vectors) ** 2).sum(),
        np.full(count, 1 / count),
        bounds=[(0, max_weight)] * count,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 1000},
    ).x
    weights = found / sizes if normalise else found
    return weights / weights.sum()


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("max_weight", [0.4, 0.6, 1.0])
def test_value_and_gradient_are_those_of_the_formula(
    losses_of: MakeLosses, drawn: list[Tensor], max_weight: float, *, normalise: bool
) -> None:
    """Gradients by differentiation, the weights by a general solver."""
    ours, plain = drawn[0].clone().requires_grad_(), drawn[0].double().requires_grad_()
    losses = losses_of(ours, *drawn[1:], max_weight=max_weight, normalise=normalise)
    losses.transfer["kd"].backward()

    each = [plain_kl(teacher.double(), plain) for teacher in drawn[1:]]
    gradients = [torch.autograd.grad(one, plain, retain_graph=True)[0].mean(dim=0) for one in each]
    weights = plain_weights(torch.stack(gradients).numpy(), max_weight, normalise=normalise)
    expected = sum(float(weight) * one for weight, one in zip(weights, each, strict=True))
    expected.backward()
    assert losses.transfer["kd"].item() == pytest.approx(expected.item(), rel=1e-3)
    scale = plain.grad.abs().max().item()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-2, atol=5e-3 * scale, check_dtype=False)
    told = [losses.metrics[f"weight_{place}"].item() for place in (1, 2, 3)]
    assert told == pytest.approx(weights, abs=2e-3)


def test_with_the_least_bound_it_is_the_mean(losses_of: MakeLosses, drawn: list[Tensor]) -> None:
    loss = losses_of(*drawn, max_weight=1 / 3 + 1e-9).transfer["kd"].item()
    each = [plain_kl(teacher.double(), drawn[0].double()).item() for teacher in drawn[1:]]
    assert loss == pytest.approx(sum(each) / 3, rel=1e-4)


def test_a_bound_that_no_weights_can_keep_is_refused(losses_of: MakeLosses, drawn: list[Tensor]) -> None:
    with pytest.raises(KdctlError, match="the weights of 3 teachers cannot sum to 1") as caught:
        losses_of(*drawn, max_weight=0.3)
    assert caught.value.hint == "set method.max_weight to 0.333 or more."
