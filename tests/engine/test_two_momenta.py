from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.optim import build_optimizer, set_learning_rate
from kdctl.engine.two_momenta import TwoMomenta, take_gradients_apart
from kdctl.protocols.step import Losses
from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import Dot, Sgd

RATES = [0.1, 0.1, 0.01]
START = torch.tensor([0.5, -1.0, 2.0])


def parameters() -> list[nn.Parameter]:
    """Return one that both losses see, one of the task alone, one of the transfer alone."""
    return [nn.Parameter(factor * START) for factor in (1.0, 2.0, -1.0)]


def losses_of(trained: Sequence[Tensor], step: int) -> Losses:
    """Make two losses whose gradients differ, and change with the step."""
    both, task, transfer = trained
    return Losses(
        task=(both * (step + 1)).cos().sum() + task.square().sum(),
        transfer={"first": (both**3).sum() * 0.1, "second": (both * transfer).sum()},
        logits=None,
    )


def steps(options: Dot | Sgd, *, recordable: bool) -> list[nn.Parameter]:
    """Return the parameters after three steps."""
    trained = parameters()
    name = "dot" if isinstance(options, Dot) else "sgd"
    spec = Spec(kind="optimizer", name=name, options=options)
    optimizer = build_optimizer(spec, trained, recordable=recordable)
    for step, rate in enumerate(RATES):
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)
        losses = losses_of(trained, step)
        if isinstance(optimizer, TwoMomenta):
            take_gradients_apart(losses, [optimizer])
        else:
            losses.total().backward()
        optimizer.step()
    return trained


@pytest.mark.parametrize("recordable", [False, True])
def test_steps_are_those_of_the_formula(recordable: bool) -> None:
    ours = steps(Dot(learning_rate=1.0, momentum=0.9, delta=0.075, weight_decay=5e-3), recordable=recordable)
    values = [value.detach().double() for value in parameters()]
    task_momenta = [torch.zeros(3, dtype=torch.float64) for _ in values]
    transfer_momentum = torch.zeros(3, dtype=torch.float64)
    for step, rate in enumerate(RATES):
        both, task, transfer = values
        gradients = [-(step + 1) * torch.sin(both * (step + 1)), 2 * task, both]
        momenta = [0.825, 0.9, 0.9]
        for place, (gradient, momentum) in enumerate(zip(gradients, momenta, strict=True)):
            decayed = gradient + 5e-3 * values[place]
            task_momenta[place] = momentum * task_momenta[place] + decayed
        transfer_momentum = 0.975 * transfer_momentum + 0.3 * both**2 + transfer
        values = [value - rate * momentum for value, momentum in zip(values, task_momenta, strict=True)]
        values[0] = values[0] - rate * transfer_momentum
    for own, expected in zip(ours, values, strict=True):
        torch.testing.assert_close(own.detach(), expected.float())


@pytest.mark.parametrize("recordable", [False, True])
def test_without_delta_it_is_sgd(recordable: bool) -> None:
    dot = steps(Dot(learning_rate=1.0, delta=0.0), recordable=recordable)
    sgd = steps(Sgd(learning_rate=1.0), recordable=recordable)
    for own, other in zip(dot, sgd, strict=True):
        torch.testing.assert_close(own, other)


def test_an_optimizer_of_one_momentum_beside_it_gets_the_sum() -> None:
    both, task, transfer = parameters()
    apart = TwoMomenta([task, transfer], lr=0.1, momentum=0.9, delta=0.075, weight_decay=0.0, fused=False)
    plain = torch.optim.SGD([both], lr=0.1)
    take_gradients_apart(losses_of([both, task, transfer], 0), [apart, plain])
    sums = parameters()
    losses_of(sums, 0).total().backward()
    for own, other in zip((both, task, transfer), sums, strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    assert not apart.transfer_gradients


def test_a_single_loss_is_plain_sgd() -> None:
    """The student alone, or a teacher that is trained first."""
    results = []
    for options in (Dot(learning_rate=0.1), Sgd(learning_rate=0.1)):
        parameter = nn.Parameter(START.clone())
        optimizer = build_optimizer(Spec(kind="optimizer", name="any", options=options), [parameter])
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            losses = Losses(task=parameter.cos().sum(), logits=None)
            if isinstance(optimizer, TwoMomenta):
                take_gradients_apart(losses, [optimizer])
            else:
                losses.total().backward()
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("momentum", "delta"), [(0.9, 0.1), (0.05, 0.075)])
def test_momenta_out_of_range_are_refused(momentum: float, delta: float) -> None:
    with pytest.raises(ValueError, match="should be at least 0"):
        Dot(momentum=momentum, delta=delta)


def test_a_closure_is_refused() -> None:
    optimizer = TwoMomenta(parameters(), lr=0.1, momentum=0.9, delta=0.0, weight_decay=0.0, fused=False)
    with pytest.raises(ValueError, match="one closure"):
        optimizer.step(lambda: 0.0)


@pytest.mark.parametrize("longest", [0.5, 100.0])
def test_long_gradients_are_scaled_down_by_the_norm_of_their_sum(longest: float) -> None:
    trained = parameters()
    optimizer = TwoMomenta(trained, lr=1.0, momentum=0.0, delta=0.0, weight_decay=0.0, fused=False)
    for parameter in trained:
        optimizer.state[parameter] = {
            "momentum_buffer": torch.zeros(3),
            "transfer_buffer": torch.zeros(3),
        }
    take_gradients_apart(losses_of(trained, 0), [optimizer])
    own = [torch.zeros(3) if each.grad is None else each.grad.clone() for each in trained]
    others = [optimizer.transfer_gradients.get(each, torch.zeros(3)) for each in trained]
    sums = [left + right for left, right in zip(own, others, strict=True)]
    norm = torch.cat(sums).norm()
    before = [parameter.detach().clone() for parameter in trained]
    optimizer.clip(longest)
    optimizer.step()
    for start, parameter, gradient in zip(before, trained, sums, strict=True):
        expected = start - gradient * min(longest / norm.item(), 1.0)
        torch.testing.assert_close(parameter.detach(), expected)
