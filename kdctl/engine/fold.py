"""Batch norm folded into the convolutions of a model that is trained no more.

    BN(conv(x)) = gamma * (W * x - mean) / sqrt(var + eps) + beta = (gamma / sqrt(var + eps) * W) * x + bias

Which pairs fold is seen on one small batch, not guessed from a model's code: a batch norm must read the
very tensor that a convolution gave, and that tensor must be no tap. Where the batch norm comes first, as
in pre-activation blocks, nothing folds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdctl.protocols.backbone import Backbone, Outputs

FAITHFUL = 1e-4
"""Largest error of a tap that is rounding, relative to the largest magnitude in it."""


def fold_batch_norms(model: Backbone, images: Tensor) -> Backbone | None:
    """Return a copy of a model in eval mode with its batch norms folded where they can be.

    Args:
        model: left as it is.
        images: [B, 3, H, W], normalised: a small batch on which the copy is held against the model.

    Returns:
        None if the copy does not give the same at every tap: somebody else reads what a convolution gave.
    """
    folded = copy.deepcopy(model)
    for conv, norm in _foldable_pairs(model, images):
        folded.set_submodule(conv, _fused(folded.get_submodule(conv), folded.get_submodule(norm)))
        folded.set_submodule(norm, _what_follows(model.get_submodule(norm)))
    return folded if largest_error(folded, model, images) <= FAITHFUL else None


def _what_follows(norm: nn.Module) -> nn.Module:
    """Return what a batch norm does besides normalising: timm's rectify as well, torch's do nothing."""
    activation = getattr(norm, "act", None)
    return copy.deepcopy(activation) if isinstance(activation, nn.Module) else nn.Identity()


def _fused(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """Return the one convolution that does the work of both; computed in fp64, then rounded once."""
    pair = cast(nn.Conv2d, conv).double(), cast(nn.BatchNorm2d, norm).double()
    return fuse_conv_bn_eval(*pair).float()


@torch.no_grad()
def largest_error(model: Backbone, reference: Backbone, images: Tensor) -> float:
    """Return how far `model` is off at the tap (or the logits) where it is off most.

    Relative to the largest magnitude that the reference has there; infinite where it is not a number.
    """
    taps = list(reference.tap_shapes)
    theirs, ours = _values(reference.observe(images, taps)), _values(model.observe(images, taps))
    errors = [
        float((own.float() - value.float()).abs().max() / value.abs().max().clamp_min(1e-30))
        for own, value in zip(ours, theirs, strict=True)
    ]
    return max(error if math.isfinite(error) else math.inf for error in errors)


def _values(outputs: Outputs) -> list[Tensor]:
    return [*outputs.taps.values(), outputs.require_logits()]


@torch.no_grad()
def _foldable_pairs(model: Backbone, images: Tensor) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the batch norms that read nothing but what those give."""
    given: list[tuple[str, Tensor]] = []
    read: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(_note(name, given if isinstance(module, nn.Conv2d) else read))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) or _has_statistics(module)
    ]
    try:
        taps = model.observe(images, list(model.tap_shapes)).taps.values()
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (conv, norm)
        for norm, features in read
        for conv, output in given
        if output is features
        and not any(output is tap for tap in taps)
        and _once(conv, given)
        and _once(norm, read)
    ]


def _note(name: str, where: list[tuple[str, Tensor]]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    """Return a hook that keeps a convolution's output or a batch norm's input."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        where.append((name, output if isinstance(module, nn.Conv2d) else inputs[0]))

    return hook


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and not module.training and module.running_mean is not None


def _once(name: str, calls: list[tuple[str, Tensor]]) -> bool:
    """Whether a module ran once: one that serves two places cannot be changed for one of them."""
    return sum(called == name for called, _ in calls) == 1
