"""How many batches batch norms have seen, counted on the host."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import (
    _BatchNorm as BatchNorm,  # pyright: ignore[reportPrivateUsage]  # torch's base of them all
)


class BatchCounters:
    """The counters of a model's batch norms, which are not needed in training, only in its checkpoints.

    A batch norm adds one to its counter in every step: one small kernel for each layer, a tenth of
    those of a MobileNetV2. Here the counters are taken out of the layers while a step runs, the steps are
    counted on the host, and `flush` adds their number to the counters. A layer that uses its counter,
    because its statistics are plain means (momentum None), keeps it. A layer that runs twice in a step counts
    once.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the batch norms of `model` whose counters nothing reads in training."""
        self._norms = [
            module
            for module in model.modules()
            if isinstance(module, BatchNorm)
            and module.momentum is not None
            and module.num_batches_tracked is not None
        ]
        self._num_batches = 0

    @contextmanager
    def resting(self) -> Generator[None]:
        """Take the counters out of the layers while what is inside runs."""
        counters = [_exchange(norm, None) for norm in self._norms]
        try:
            yield
        finally:
            for norm, counter in zip(self._norms, counters, strict=True):
                _exchange(norm, counter)

    def count(self) -> None:
        """Remember that a batch was seen."""
        self._num_batches += 1

    @torch.no_grad()
    def flush(self) -> None:
        """Add the batches that were counted to the counters of the layers in training mode."""
        if self._num_batches:
            for norm in self._norms:
                if norm.training and norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.add_(self._num_batches)
        self._num_batches = 0


def _exchange(norm: BatchNorm, counter: Any) -> Tensor | None:
    """Put another counter into a layer, past the checks of `nn.Module`; return the one it had."""
    before = norm._buffers["num_batches_tracked"]  # pyright: ignore[reportPrivateUsage]
    norm._buffers["num_batches_tracked"] = counter  # pyright: ignore[reportPrivateUsage]
    return before
