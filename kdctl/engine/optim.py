"""Optimizers of torch, built from a plan, whose every step does the same work.

State that torch would make in the first step is made before it, as zeros: with momentum that gives the
same bits as torch's special first step. On a GPU the learning rate is a tensor on the device and the
step is one fused kernel that reads it, so that a recorded step can be replayed at another rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.engine.two_momenta import TwoMomenta
from kdctl.errors import KdctlError
from kdctl.protocols.distiller import ParameterGroup
from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import AdamW, Dot, Lamb, OptimizerOptions, Sgd

_GROUP_STEP = "step"
"""Where timm's optimizers count the steps of a whole group; torch's count in the state of each parameter."""


@dataclass(frozen=True, kw_only=True)
class GroupOptimizer:
    """The optimizer of one parameter group."""

    name: str
    """Of the group."""
    optimizer: torch.optim.Optimizer
    learning_rate: float
    """Before the schedule."""
    max_gradient_norm: float = 0.0
    """Longer gradients are scaled down to it; 0: none are."""
    recordable: bool = True
    """Whether its step does the same work each time, and is known to be recorded rightly."""

    def step(self) -> None:
        """Update the parameters by their gradients."""
        if self.max_gradient_norm and isinstance(self.optimizer, TwoMomenta):
            self.optimizer.clip(self.max_gradient_norm)
        elif self.max_gradient_norm:
            nn.utils.clip_grad_norm_(self.parameters(), self.max_gradient_norm)
        self.optimizer.step()

    def parameters(self) -> list[nn.Parameter]:
        """Return what it trains."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def build_optimizers(
    spec: Spec,
    groups: Sequence[ParameterGroup],
    *,
    undecayed: Sequence[nn.Parameter] = (),
    recordable: bool | None = None,
) -> tuple[GroupOptimizer, ...]:
    """Return an optimizer for each group that has parameters: its own, or else the one that `spec` describes.

    Args:
        spec: the recipe's optimizer.
        groups: what to train.
        undecayed: as in `build_optimizer`.
        recordable: as in `build_optimizer`.

    Raises:
        KdctlError: the optimizer is from a library that is not installed.
    """
    ids = frozenset(map(id, undecayed))
    return tuple(_build_group(spec, group, ids, recordable) for group in groups if group.parameters)


def _build_group(
    spec: Spec, group: ParameterGroup, undecayed: frozenset[int], recordable: bool | None
) -> GroupOptimizer:
    chosen = group.optimizer or spec
    if group.weight_decay is not None:
        options = dataclasses.replace(chosen.options, weight_decay=group.weight_decay)
        chosen = dataclasses.replace(chosen, options=options)
    return GroupOptimizer(
        name=group.name,
        optimizer=build_optimizer(chosen, group.parameters, undecayed=undecayed, recordable=recordable),
        learning_rate=chosen.options.learning_rate * group.learning_rate_scale,
        max_gradient_norm=chosen.options.max_gradient_norm,
        recordable=not isinstance(chosen.options, Lamb | Dot),
    )


def build_optimizer(
    spec: Spec,
    parameters: Iterable[nn.Parameter],
    *,
    undecayed: Collection[int] = (),
    recordable: bool | None = None,
) -> torch.optim.Optimizer:
    """Return the optimizer that `spec` describes, over `parameters`.

    They are one group of torch's, or two where norms and biases have no weight decay.

    Args:
        spec: which optimizer, with its options.
        parameters: what it trains, all on one device.
        undecayed: ids of those that are spared with norms and biases, though they are no vectors.
        recordable: whether its step is fused and reads the learning rate from a tensor; None: on a GPU.
            On a CPU fused steps round differently for some layouts (by 1e-11), for one hundredth of
            a step's time.

    Raises:
        KdctlError: the optimizer is from a library that is not installed.
    """
    trained = list(parameters)
    on_gpu = any(parameter.is_cuda for parameter in trained)
    fused = (on_gpu if recordable is None else recordable) and not isinstance(spec.options, Lamb)
    optimizer = _build(spec, _by_decay(spec.options, trained, undecayed), fused)
    if fused:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=trained[0].device)
    _make_state(optimizer)
    return optimizer


def _by_decay(
    options: OptimizerOptions, parameters: list[nn.Parameter], undecayed: Collection[int]
) -> list[dict[str, Any]]:
    """Return the groups of torch's optimizer: with the weight decay of the options, and without."""
    if getattr(options, "decay_norms_and_biases", True):
        return [{"params": parameters}]
    spared = [parameter.ndim <= 1 or id(parameter) in undecayed for parameter in parameters]
    decayed = [parameter for parameter, spare in zip(parameters, spared, strict=True) if not spare]
    others = [parameter for parameter, spare in zip(parameters, spared, strict=True) if spare]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use `learning_rate` from the next step on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


@torch.no_grad()
def copy_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: Tensor) -> None:
    """Use a 0-dim `learning_rate` on the device from the next step on, without looking at it.

    Raises:
        ValueError: the optimizer is not recordable.
    """
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            raise ValueError("only a recordable optimizer reads its learning rate from a tensor")
        group["lr"].copy_(learning_rate)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Go on from the `state_dict` of an optimizer of the same plan, on whatever device it ran.

    Rate and kind of step stay this optimizer's own: they belong to the device.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    own = optimizer.state_dict()["param_groups"]
    for group, known in zip(own, saved["param_groups"], strict=True):
        if _GROUP_STEP in known:
            group[_GROUP_STEP] = known[_GROUP_STEP]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate  # torch copied it, but a recorded step reads this very tensor


def _build(spec: Spec, parameters: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    options = spec.options
    if isinstance(options, Sgd):
        return torch.optim.SGD(
            parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.nesterov,
            fused=fused or None,
        )
    if isinstance(options, Dot):
        return TwoMomenta(
            parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            delta=options.delta,
            weight_decay=options.weight_decay,
            fused=fused,
        )
    if isinstance(options, AdamW):
        optimizer = torch.optim.AdamW(
            parameters,
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
            fused=fused or None,
            capturable=fused,
        )
        # Torch would warn that the step is not recorded, which it need not be.
        optimizer._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]
        return optimizer
    if isinstance(options, Lamb):
        return _lamb(options, parameters)
    raise ValueError(f"no torch optimizer is known for {spec.name}")


def lamb_class() -> Any:
    """Return timm's class of that name.

    Raises:
        KdctlError: timm is not installed.
    """
    try:
        from timm.optim.lamb import Lamb as TimmLamb  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise KdctlError(
            "the optimizer 'lamb' is timm's, which is not installed.", "pip install 'kdctl[timm]'"
        ) from error
    return TimmLamb


def _lamb(options: Lamb, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return lamb_class()(
        parameters,
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        weight_decay=options.weight_decay,
        max_grad_norm=None,  # ours is the same for all optimizers
    )


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the state of every parameter, as zeros."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(optimizer, torch.optim.AdamW):
                device = parameter.device if group["fused"] else torch.device("cpu")
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=device),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
            elif "betas" in group:
                optimizer.state[parameter] = {
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
            elif isinstance(optimizer, TwoMomenta):
                optimizer.state[parameter] = {
                    name: torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    for name in ("momentum_buffer", "transfer_buffer")
                }
            elif group["momentum"] != 0:
                optimizer.state[parameter] = {
                    "momentum_buffer": torch.zeros_like(parameter, memory_format=torch.preserve_format)
                }
