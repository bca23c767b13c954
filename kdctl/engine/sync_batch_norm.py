"""Batch norms that see the whole batch where several processes have a part of it each.

torch.nn.SyncBatchNorm does this on GPUs only and takes the place of modules, which models of the ecosystem
do not always allow: timm's batch norms carry an activation. Here the modules stay as they are, and the
function that all of them call is computed from sums over all processes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kdctl.errors import KdctlError, UsageError
from kdctl.recipe.engine_options import EngineOptions

_BATCH_NORM = inspect.signature(functional.batch_norm)


def require_eager(options: EngineOptions) -> None:
    """Refuse compiled students: their code does not ask which function a batch norm calls.

    Raises:
        KdctlError: batch norms are to be synchronised, and the student is to be compiled.
    """
    if options.sync_batch_norm and options.compile_student:
        raise KdctlError(
            "engine.sync_batch_norm does not reach the batch norms of a student that is compiled.",
            "leave out engine.compile_student, or engine.sync_batch_norm.",
        )


def require_one_part(num_own: int, num_parts: int) -> None:
    """Refuse a process that takes several parts of a batch, one after the other.

    Raises:
        UsageError: this one takes `num_own` of `num_parts`; no batch norm could see them all.
    """
    if num_own > 1:
        raise UsageError(
            f"engine.sync_batch_norm needs a device for each of the {num_parts} parts of a batch.",
            f"use --devices {num_parts}, or take batches whole: -o engine.batch_parts=1.",
        )


class SyncBatchNorm(TorchFunctionMode):
    """Within this context batch norms that train normalise by mean and variance over all processes.

    All processes must run the same batch norms in the same order, forward and backward.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or what takes the place of a batch norm."""
        if func is functional.batch_norm:
            words = _BATCH_NORM.bind(*args, **(kwargs or {}))
            words.apply_defaults()
            if words.arguments["training"]:
                return _normalised(*words.args)
        return func(*args, **(kwargs or {}))


def _normalised(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return what `functional.batch_norm` returns for the images of all processes: this process's rows.

    The sums are taken in fp32 and in two passes, first the mean, then the squares around it, because the
    difference of two large sums would lose the digits that a small variance is made of.
    """
    with torch.autocast(images.device.type, enabled=False):
        values = images.float()
        over = [0, *range(2, values.ndim)]
        each = [1, -1, *[1] * (values.ndim - 2)]
        own_count = values.new_full((1,), values.numel() / values.shape[1])
        sums = _SumOverProcesses.apply(torch.cat([values.sum(over), own_count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean.view(each)
        variance = _SumOverProcesses.apply(centred.square().sum(over)) / count
        normalised = centred * torch.rsqrt(variance + eps).view(each)
        if weight is not None:
            normalised = normalised * weight.view(each)
        if bias is not None:
            normalised = normalised + bias.view(each)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = variance * (count / (count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return normalised.to(images.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; so its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(values: Tensor) -> Tensor:
    summed = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(summed)
    return summed
