"""How long the steps of a gang take, what a device can do at most, and how often a piece of work calls it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from kdctl.engine.device import Compute, has_fast_bf16, synchronise
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.steps import Steps
from kdctl.engine.streamed_batches import NUM_SLOTS, StreamedTrainingSet
from kdctl.engine.trainer import begin_epoch, choose_steps, fit
from kdctl.records import EpochResult

_PRODUCT = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product shows the peak."""

_REPEATS = 5

_PATIENCE = 2.0
"""Seconds after which a step is not taken again to see how long it takes."""

_MEMORY_EVENT = "[memory]"
"""What torch's profiler calls an allocation, and a release, whose size is negative."""


def peak_flops(device: torch.device, precision: str) -> float:
    """Return the operations per second that a large matrix product reaches: the best of several.

    Where a device has no instructions for bf16, it is a product in fp32: in bf16 it would take minutes.
    """
    fast_bf16 = precision == "bf16" and has_fast_bf16(device) is not False
    dtype = torch.bfloat16 if fast_bf16 else torch.float32
    size = _PRODUCT[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first is a warm-up, and never the fastest
        synchronise(device)
        began = time.perf_counter()
        torch.mm(left, right)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def step_seconds(model: nn.Module, images: Tensor, compute: Compute) -> float:
    """Return the seconds that a training step of a model takes: the faster of two after a warm-up.

    Where the warm-up takes seconds by itself, it is the measured step.

    Args:
        model: on the device.
        images: [B, 3, H, W], there as well.
        compute: the device, and the precision of the step.
    """
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < _PATIENCE:
        began = time.perf_counter()
        with compute.arithmetic():
            total = model(images).sum()
        total.backward()
        synchronise(compute.device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:] or seconds)


def count_launches(work: Callable[[], object], device: torch.device) -> int:
    """Return how many kernels `work` runs on a GPU, or on a CPU how many operators."""
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            work()
            synchronise(device)
        return sum(event.device_type == DeviceType.CUDA for event in profiler.events() or [])
    with _OperatorCount() as count:
        work()
    return count.operators


def peak_allocated(work: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that torch has allocated at once during `work`, beyond what it had before.

    What libraries below torch allocate for themselves is not seen.
    """
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    recorded: Any = profiler.profiler
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in recorded.kineto_results.events()
        if event.name() == _MEMORY_EVENT
    )
    return max(itertools.accumulate((size for _, size in changes), initial=0))


class _OperatorCount(TorchDispatchMode):
    """Counts the operators below autograd, those of the backward pass included; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += not func.is_view
        return func(*args, **(kwargs or {}))


class Stopwatch:
    """Takes a gang through its steps and reads the time; it is the loop's observer and its stop signal.

    What is measured is `fit`: batches, teachers, losses, optimizer and the loop's own work. The start
    and the end of `fit`, where states are loaded and saved, are not.
    """

    def __init__(self, gang: Gang) -> None:
        """Measure `gang`, whose members' folders must exist: each stop saves their states there."""
        self._gang = gang
        self._steps: Steps = choose_steps(gang)
        self._left = self._counted = 0
        self._began = self._ended = 0.0
        self._waited = 0.0
        self.waited_seconds = 0.0
        """How long the steps that were taken last waited for images to be decoded."""

    @property
    def num_ahead(self) -> int:
        """Return the steps before the clock runs: the first streamed images come at another rate."""
        return NUM_SLOTS if isinstance(self._gang.data.train, StreamedTrainingSet) else 0

    @property
    def num_images(self) -> int:
        """Images of a step, over all members."""
        return len(self._gang.active) * self._gang.data.train.batch_size

    def ready(self) -> Steps:
        """Stand before the first step of an epoch; return what takes the steps, without the loop's own work.

        Records that exist are used. A GPU may still be at work on a step when its `take` returns.
        """
        for member in self._gang.active:
            member.epoch, member.step = 0, 0
        self._steps = begin_epoch(self._gang, self._steps)
        return self._steps

    def take(self, num_steps: int) -> float:
        """Take whole steps and return the wall time in seconds, waiting for the device at both ends.

        Raises:
            ValueError: an epoch has no more steps than that.
        """
        if num_steps + self.num_ahead >= self._gang.data.train.num_steps:
            raise ValueError(f"{num_steps} steps do not fit into an epoch")
        for member in self._gang.active:  # always the same part of the epoch, without evaluation
            member.epoch, member.step = 0, 0
        self._left, self._counted, self._began = num_steps + self.num_ahead, num_steps, 0.0
        fit(self._gang, self, stop=self._stop, steps=self._steps)
        self.waited_seconds = self._all_waited() - self._waited
        return self._ended - self._began

    def step_done(self, gang: Gang) -> None:
        """Count the step."""
        self._left -= 1

    def epoch_done(self, member: Member, result: EpochResult) -> None:
        """Never called: `take` stops before an epoch ends."""

    def _stop(self) -> bool:
        if self._left > self._counted or (self._left and self._began):
            return False
        synchronise(self._gang.compute.device)
        if self._left:
            self._began, self._waited = time.perf_counter(), self._all_waited()
            return False
        self._ended = time.perf_counter()
        return True

    def _all_waited(self) -> float:
        train = self._gang.data.train
        return train.waited_seconds if isinstance(train, StreamedTrainingSet) else 0.0
