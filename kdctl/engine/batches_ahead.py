"""The batches that worker processes make while others are trained on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from kdctl.engine.image_workers import ImageWorkers, Ring

Position = tuple[int, int, int]
"""Seed, epoch and step of a batch."""


class BatchesAhead:
    """Keeps the workers busy with the batches that come next."""

    def __init__(
        self,
        workers: ImageWorkers,
        ring: Ring,
        submit: Callable[[int, Position], None],
        following: Callable[[Position], Position | None],
    ) -> None:
        """`submit` lets a slot be filled with a batch; `following` tells which batch comes after another."""
        self._workers, self._ring, self._submit, self._following = workers, ring, submit, following
        self._queue: deque[tuple[Position, int]] = deque()
        self._free = list(range(ring.num_slots))
        self._in_use: tuple[int, torch.cuda.Event | None] | None = None
        self.waited_seconds = 0.0
        """How long steps have waited for their images in all."""

    def take(self, position: Position, device: torch.device) -> Tensor:
        """Return the images of a batch on the device, [B, S, S, 3] uint8, valid until the next call."""
        self._release()
        if not self._queue or self._queue[0][0] != position:
            self._free += [slot for _, slot in self._queue]
            self._queue.clear()
        self._fill(position)
        _, slot = self._queue.popleft()
        began = time.perf_counter()
        pixels = self._workers.wait(self._ring, slot)
        self.waited_seconds += time.perf_counter() - began
        if device.type != "cuda":
            self._in_use = slot, None
            return pixels
        copied = pixels.to(device, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._in_use = slot, event
        return copied

    def _release(self) -> None:
        """Free the slot of the batch before, once the device has its own copy."""
        if self._in_use is None:
            return
        slot, event = self._in_use
        if event is not None:
            event.synchronize()
        self._free.append(slot)
        self._in_use = None

    def _fill(self, position: Position) -> None:
        """Submit as many batches as there are free slots, from `position` on or after those in the queue."""
        upcoming = self._following(self._queue[-1][0]) if self._queue else position
        while self._free and upcoming is not None:
            slot = self._free.pop()
            self._submit(slot, upcoming)
            self._queue.append((upcoming, slot))
            upcoming = self._following(upcoming)
