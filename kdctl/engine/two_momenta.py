"""Momentum of the loss against labels and of what a teacher adds, kept apart (DOT)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.protocols.step import Losses


class TwoMomenta(torch.optim.Optimizer):
    """SGD with a momentum for the gradient of the task and a larger one for that of the distillation.

    Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023, arXiv:2307.08436, with
    mu = momentum, d = delta:

        v_task = (mu - d) * v_task + g_task + weight_decay * theta,
        v_transfer = (mu + d) * v_transfer + g_transfer,
        theta = theta - lr * (v_task + v_transfer).

    A parameter that only one of the two losses sees has momentum mu, and weight decay. Both buffers start
    at 0. `grad` is the gradient of the task, or of the only loss; `transfer_gradients` has the other, by
    parameter, where there are two.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        delta: float,
        weight_decay: float,
        fused: bool,
    ) -> None:
        """Take `parameters` as torch's optimizers do; with `fused` the rate may be a tensor on the device."""
        numbers = {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        super().__init__(parameters, {**numbers, "fused": fused})
        self.transfer_gradients: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step by the gradients that are there; `closure` is not supported."""
        if closure is not None:
            raise ValueError("gradients of two losses cannot be computed anew by one closure")
        for group in self.param_groups:
            mu, delta = group["momentum"], group["delta"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                transfer = self.transfer_gradients.get(parameter)
                state = self.state[parameter]
                decayed = parameter.grad.add(parameter, alpha=group["weight_decay"])
                move = state["momentum_buffer"].mul_(mu if transfer is None else mu - delta).add_(decayed)
                if transfer is not None:
                    move = move + state["transfer_buffer"].mul_(mu + delta).add_(transfer)
                parameter.sub_(move * group["lr"])
        self.transfer_gradients.clear()

    @torch.no_grad()
    def clip(self, max_norm: float) -> None:
        """Scale both gradients alike where the norm of their sum over all parameters is above `max_norm`."""
        transfer = self.transfer_gradients
        own = {
            parameter: parameter.grad
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        }
        sums = [grad + transfer[each] if each in transfer else grad for each, grad in own.items()]
        factor = (max_norm / (nn.utils.get_total_norm(sums) + 1e-6)).clamp(max=1.0)
        for gradient in (*own.values(), *transfer.values()):
            gradient.mul_(factor)


def compute_gradients(
    losses: Losses, optimizers: Sequence[torch.optim.Optimizer], *, trains_all: bool
) -> None:
    """Give the parameters of optimizers their gradients, by one backward pass.

    Where an optimizer keeps the gradient of the task apart from that of all other terms, by two backward
    passes, one for each; the other optimizers then get the sum of both gradients.

    Args:
        losses: of an update.
        optimizers: of what the update trains.
        trains_all: whether that is all that there is; otherwise the rest gets no gradient, though the
            losses may depend on it.
    """
    if any(isinstance(optimizer, TwoMomenta) for optimizer in optimizers):
        take_gradients_apart(losses, optimizers)
        return
    parameters = [each for part in optimizers for group in part.param_groups for each in group["params"]]
    torch.autograd.backward(losses.total(), inputs=None if trains_all else parameters)


def take_gradients_apart(losses: Losses, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Compute the gradients of the task and of all other terms, by a backward pass each."""
    trained = [
        (optimizer, parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    parameters = [parameter for _, parameter in trained]
    task = _gradients(losses.task, parameters, retain=bool(losses.transfer))
    terms = [term.float() for term in losses.transfer.values()]
    transfer = _gradients(torch.stack(terms).sum() if terms else None, parameters, retain=False)
    for (optimizer, parameter), own, other in zip(trained, task, transfer, strict=True):
        if own is None or other is None:
            parameter.grad = other if own is None else own
        elif isinstance(optimizer, TwoMomenta):
            parameter.grad = own
            optimizer.transfer_gradients[parameter] = other
        else:
            parameter.grad = own + other


def _gradients(
    loss: Tensor | None, parameters: list[nn.Parameter], *, retain: bool
) -> Sequence[Tensor | None]:
    """Return the gradient of each parameter; None where the loss does not depend on it."""
    if loss is None:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True)
