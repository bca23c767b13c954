"""What a model costs its user: operations, bytes, milliseconds."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdctl.engine.device import Compute, describe, synchronise
from kdctl.evaluation_records import Latency

LATENCY_BATCHES = (256, 128, 64, 32, 16, 8, 4, 2)
"""Many images, as a data centre sees them: the first of these numbers that does not take too long."""

_RGB = 3
_LONGEST_SECONDS = 10.0
"""That a batch of many may take: of a large network a CPU gets fewer images."""

_FEWEST_REPEATS = 3
_MOST_REPEATS = 100
_SECONDS = 0.5
"""Per batch size, unless the fewest repeats take longer."""

_SLOW_SECONDS = 2.0
"""A call that takes longer needs no warm-up, and no others beside it."""


def count_multiply_adds(model: nn.Module, input_size: int) -> int:
    """Return the multiply-adds of one image in convolutions and matrix products, groups counted right.

    Normalisation, activations and pooling are not counted, as in papers. Torch's own counter counts
    the forward pass right; of its backward pass the weight gradients of grouped convolutions are not.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - a third of a second, for `eval` only

    # Without data: shapes are all that counts.
    shapes_only = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, _RGB, input_size, input_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes_only(image)
    return counter.get_total_flops() // 2


class TrainingOperations(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products in forward passes.

    What runs with gradients counts three times, for a backward pass takes twice as much. Without data, on
    tensors of shapes alone, it counts as well.
    """

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.total = 0.0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler to keep it away from this: a second, for nothing is compiled."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        outputs = func(*args, **(kwargs or {}))
        if (formula := _formulas().get(func.overloadpacket)) is not None:
            times = 3 if torch.is_grad_enabled() else 1
            self.total += times * formula(*args, **(kwargs or {}), out_val=outputs)
        return outputs


def _formulas() -> dict[Any, Callable[..., int]]:
    from torch.utils.flop_counter import flop_registry  # noqa: PLC0415 - a third of a second

    return flop_registry


def size_mb(model: nn.Module) -> float:
    """Return the bytes of parameters and buffers as they are stored, in millions."""
    return sum(value.numel() * value.element_size() for value in model.state_dict().values()) / 1e6


def measure_latencies(model: nn.Module, input_size: int, compute: Compute) -> tuple[Latency, ...]:
    """Return the time of one image alone, and of each among many; where one takes long, they are fewer."""
    alone = measure_latency(model, input_size, 1, compute)
    most = 1000.0 * _LONGEST_SECONDS / alone.ms_per_image
    batch_size = next((size for size in LATENCY_BATCHES if size <= most), 0)
    return (alone, measure_latency(model, input_size, batch_size, compute)) if batch_size else (alone,)


@torch.no_grad()
def measure_latency(model: nn.Module, input_size: int, batch_size: int, compute: Compute) -> Latency:
    """Return the median time of a batch of blank images, after a warm-up that is not counted."""
    model.eval()
    shape = (batch_size, _RGB, input_size, input_size)
    images = torch.zeros(shape, device=compute.device).to(memory_format=torch.channels_last)
    with compute.arithmetic():
        seconds = _median_seconds(lambda: model(images), compute.device)
    return Latency(
        batch_size=batch_size,
        ms_per_image=1000.0 * seconds / batch_size,
        device=describe(compute.device),
        num_threads=torch.get_num_threads(),
    )


def _median_seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    warm_up = _seconds(call, device)
    if warm_up > _SLOW_SECONDS:
        return warm_up
    times: list[float] = []
    while len(times) < _FEWEST_REPEATS or (sum(times) < _SECONDS and len(times) < _MOST_REPEATS):
        times.append(_seconds(call, device))
    return statistics.median(times)


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start
