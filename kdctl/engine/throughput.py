"""What a device can do at most, and how often a piece of work calls it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCT = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product shows the peak."""

_REPEATS = 5


def peak_flops(device: torch.device, precision: str) -> float:
    """Return the operations per second that a large matrix product reaches: the best of several."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = _PRODUCT[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first is a warm-up, and never the fastest
        _synchronise(device)
        began = time.perf_counter()
        torch.mm(left, right)
        _synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def count_launches(work: Callable[[], object], device: torch.device) -> int:
    """Return how many kernels `work` runs on a GPU, or on a CPU how many operators."""
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            work()
            _synchronise(device)
        return sum(event.device_type == DeviceType.CUDA for event in profiler.events() or [])
    with _OperatorCount() as count:
        work()
    return count.operators


class _OperatorCount(TorchDispatchMode):
    """Counts the operators below autograd, those of the backward pass included; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += not func.is_view
        return func(*args, **(kwargs or {}))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
