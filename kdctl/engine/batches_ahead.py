"""Batches that worker processes make while others are trained on, and what becomes of each image in them."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from kdctl.engine.image_buffers import Ring
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.seeds import derive
from kdctl.protocols.augmentation import Augmentation
from kdctl.protocols.dataset import CentreCrop, ImageSource, Split, StreamedSplit
from kdctl.readers.array_images import ArrayImages


class AugmentedImages:
    """Makes training images."""

    def __init__(self, split: Split | StreamedSplit, augmentation: Augmentation, size: int) -> None:
        streamed = isinstance(split, StreamedSplit)
        self._source: ImageSource = split.source if streamed else ArrayImages(split)
        self._rows = torch.from_numpy(split.rows) if streamed else torch.arange(len(split))
        self._augmentation, self._size = augmentation, size
        interpolation = split.evaluation.interpolation if streamed else "bilinear"
        self._frame = _centre_crop(CentreCrop(resize=size, size=size, interpolation=interpolation))

    def __call__(self, place: int, repeat: int, stream: int) -> Tensor:
        """Return the image at a place of the split, changed as the random stream says: [3, S, S], uint8."""
        image = self._source.read(int(self._rows[place]))
        if self._augmentation.views is not None:  # one with a number of views does not change the size
            image = self._frame(image)
        torch.default_generator.manual_seed(derive(stream, place, repeat))
        return self._augmentation(image, self._size)


class CroppedImages:
    """Makes images of an evaluation."""

    def __init__(self, split: StreamedSplit) -> None:
        self._split, self._frame = split, _centre_crop(split.evaluation)

    def __call__(self, place: int, repeat: int, stream: int) -> Tensor:
        """Return the middle of the image at a place of the split: [3, S, S], uint8."""
        return self._frame(self._split.source.read(int(self._split.rows[place])))


def _centre_crop(crop: CentreCrop) -> Callable[[Tensor], Tensor]:
    # torchvision takes two seconds to import, which runs on images in memory need not spend.
    from kdctl.readers.framing import centre_crop  # noqa: PLC0415

    return functools.partial(centre_crop, crop=crop)


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

    def take(self, position: Position, device: torch.device, part: slice) -> Tensor:
        """Return a part of a batch's images on the device, [B, S, S, 3] uint8, valid until the next call."""
        self._release()
        if not self._queue or self._queue[0][0] != position:
            self._free += [slot for _, slot in self._queue]
            self._queue.clear()
        self._fill(position)
        _, slot = self._queue.popleft()
        began = time.perf_counter()
        pixels = self._workers.wait(self._ring, slot)[part]
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
