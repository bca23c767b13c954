from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.optim import build_optimizer, set_learning_rate
from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import AdamW, Sgd, optimizers

GRADIENTS = [torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 0.3, -1.0]), torch.tensor([-0.7, 1.0, 2.0])]
START = torch.tensor([0.5, -1.0, 2.0])


def spec(name: str, options: object) -> Spec:
    return Spec(kind="optimizer", name=name, options=options)


def steps(optimizer_spec: Spec, rates: list[float]) -> Tensor:
    """Return the parameter after one step for each gradient, each at its own learning rate."""
    parameter = nn.Parameter(START.clone())
    optimizer = build_optimizer(optimizer_spec, [parameter])
    for gradient, rate in zip(GRADIENTS, rates, strict=True):
        parameter.grad = gradient.clone()
        set_learning_rate(optimizer, rate)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_one_of_distillation_papers(nesterov: bool) -> None:
    options = Sgd(learning_rate=1.0, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
    rates = [0.1, 0.1, 0.01]
    value, velocity = START.double(), torch.zeros(3, dtype=torch.float64)
    for gradient, rate in zip(GRADIENTS, rates, strict=True):
        decayed = gradient.double() + 5e-4 * value
        velocity = 0.9 * velocity + decayed
        value = value - rate * (decayed + 0.9 * velocity if nesterov else velocity)
    torch.testing.assert_close(steps(spec("sgd", options), rates), value.float())


def test_adamw_decays_weights_apart_from_gradients() -> None:
    options = AdamW(learning_rate=1.0, weight_decay=0.1, beta1=0.8, beta2=0.95)
    rates = [0.01, 0.01, 0.001]
    value = START.double()
    first = second = torch.zeros(3, dtype=torch.float64)
    for count, (gradient, rate) in enumerate(zip(GRADIENTS, rates, strict=True), start=1):
        first = 0.8 * first + 0.2 * gradient.double()
        second = 0.95 * second + 0.05 * gradient.double() ** 2
        value = value * (1 - rate * 0.1)
        value = value - rate * (first / (1 - 0.8**count)) / ((second / (1 - 0.95**count)).sqrt() + 1e-8)
    torch.testing.assert_close(steps(spec("adamw", options), rates), value.float())


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_of_a_recipe_can_be_built(name: str) -> None:
    config = optimizers.get(name).config
    optimizer = build_optimizer(spec(name, config()), [nn.Parameter(torch.zeros(2))])
    assert optimizer.param_groups[0]["lr"] == config().learning_rate


def test_an_optimizer_that_torch_lacks_is_a_bug() -> None:
    with pytest.raises(ValueError, match="no torch optimizer is known for other"):
        build_optimizer(spec("other", object()), [])
