"""Optimizers of torch, built from a plan."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import AdamW, Sgd


def build_optimizer(spec: Spec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that `spec` describes, over `parameters` in one group."""
    options = spec.options
    if isinstance(options, Sgd):
        return torch.optim.SGD(
            parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.nesterov,
        )
    if isinstance(options, AdamW):
        return torch.optim.AdamW(
            parameters,
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
        )
    raise ValueError(f"no torch optimizer is known for {spec.name}")


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use `learning_rate` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
