"""Buffers of batches in memory that a training process shares with those that decode its images."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdctl.errors import KdctlError

Prepare = Callable[[int, int, int], Tensor]
"""Makes an image [3, S, S], uint8, of its place in the split, its repeat in the epoch, a random stream."""


class Task(NamedTuple):
    """Some images of one buffer."""

    ring: int
    slot: int
    first: int
    last: int
    """One after the last image."""
    stream: int
    """Seed of the epoch's random numbers."""


@dataclass(kw_only=True)
class Ring:
    """The buffers of one split."""

    number: int
    prepare: Prepare
    pixels: Tensor
    """[slots, B, S, S, 3], uint8, in shared memory."""
    wanted: Tensor
    """[slots, B, 2], int64, in shared memory: place in the split and repeat of each image."""
    missing: list[int]
    """For each slot: images that no worker has delivered yet."""
    due: dict[int, list[Task]] = field(default_factory=dict[int, list[Task]])
    """Without workers: the images of each slot that are still to be made."""
    is_pinned: bool = False
    """Whether a GPU reads it on its own."""

    @property
    def num_slots(self) -> int:
        """Return how many batches it holds."""
        return len(self.pixels)

    def fill(self, task: Task) -> None:
        """Make the images of a task."""
        for row in range(task.first, task.last):
            place, repeat = self.wanted[task.slot, row].tolist()
            image = self.prepare(place, repeat, task.stream)
            self.pixels[task.slot, row].copy_(image.permute(1, 2, 0))

    def pin(self, device: torch.device) -> None:
        """Let a GPU read it on its own, so that copies to it need not be waited for.

        Where CUDA refuses, copies are waited for.
        """
        if device.type == "cuda" and not self.is_pinned:
            runtime: Any = torch.cuda.cudart()
            refusal = runtime.cudaHostRegister(self.pixels.data_ptr(), self.pixels.nbytes, 0)
            self.is_pinned = int(refusal) == 0
            if not self.is_pinned:
                with contextlib.suppress(RuntimeError):  # CUDA reports it once more, to the next kernel
                    torch.ones(1, device=device)

    def unpin(self) -> None:
        """Let go of it, before its memory is given back.

        Else CUDA takes what comes to lie at the same place for this, and reads pages that are gone.
        """
        if not self.is_pinned:
            return
        self.is_pinned = False
        with contextlib.suppress(RuntimeError):  # of a device that failed nothing is read any more
            torch.cuda.synchronize()
            runtime: Any = torch.cuda.cudart()
            runtime.cudaHostUnregister(self.pixels.data_ptr())


def shared_memory(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return memory that forked processes share; the limit of /dev/shm does not apply to it."""
    count = torch.Size(shape).numel()
    num_bytes = count * dtype.itemsize
    try:
        memory = mmap.mmap(-1, max(num_bytes, 1))
    except (OSError, ValueError, OverflowError) as error:
        raise KdctlError(
            f"there are no {num_bytes / 2**30:,.1f} GiB of shared memory for batches of images ({error}).",
            "lower data.batch_size, or raise the memory limit of the container or job.",
        ) from error
    return torch.frombuffer(memory, dtype=dtype, count=count).view(*shape)
