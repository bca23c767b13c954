"""What frozen teachers say, found before the steps that read it.

The order of an epoch is known when it begins. So teachers may see the batches of several steps at once,
a chunk, which takes a GPU less time than one after the other; and while students work on one chunk, the
teachers can already be at the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdctl.engine.batches import EpochOrder, TrainingSet
from kdctl.engine.teacher_outputs import Ask, KeptRows, Place, Wish, gather_outputs, pick, places_of
from kdctl.protocols.backbone import Outputs

Read = Callable[[Tensor], tuple[Outputs, ...]]
"""Finds what the teachers say to the images at places [B] of the epoch."""


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """The steps of an epoch in groups whose batches the teachers see at once."""

    train: TrainingSet
    num_batches: int
    """Of a chunk; the last one may have fewer."""

    @property
    def num_images(self) -> int:
        """Return the images of a whole chunk."""
        return self.num_batches * self.train.batch_size

    def __len__(self) -> int:
        return math.ceil(self.train.num_steps / self.num_batches)

    def of(self, step: int) -> int:
        """Return the chunk that holds a step; both count from 0."""
        return step // self.num_batches

    def size(self, chunk: int) -> int:
        """Return how many images a chunk has."""
        last = self.train.num_steps - 1
        return min(self.num_images, last * self.train.batch_size + self.train.size(last) - self.first(chunk))

    def first(self, chunk: int) -> int:
        """Return where in the epoch the first image of a chunk stands."""
        return chunk * self.num_images


class ChunkReader:
    """Serves the steps of one epoch: when the first of a chunk comes, teachers run on all of it."""

    def __init__(self, chunks: Chunks, order: EpochOrder, *, wishes: Sequence[Wish], ask: Ask) -> None:
        """Nothing is run yet."""
        self._chunks, self._order = chunks, order
        self._wishes, self._ask = wishes, ask
        self._chunk = -1
        self._seen: tuple[Outputs, ...] = ()

    def outputs(self, step: int) -> tuple[Outputs, ...]:
        """Return what the teachers say to the batch of a step."""
        chunks, train, chunk = self._chunks, self._chunks.train, self._chunks.of(step)
        first = chunks.first(chunk)
        if chunk != self._chunk:
            places = slice(first, first + chunks.size(chunk))
            self._seen = self._ask(train.gather(self._order, places).images)
            self._chunk = chunk
        start = step * train.batch_size - first
        rows = slice(start, start + train.size(step))
        return gather_outputs(self._wishes, lambda place: pick(self._seen, place)[rows])


class Lookout:
    """Writes what the teachers say to one chunk after another, for steps to read a chunk behind.

    It holds two chunks, at even and at odd places: one is read while the other is written. All that changes
    from chunk to chunk lies in tensors that stay where they are, so that its work can be recorded.
    """

    def __init__(self, chunks: Chunks, order: EpochOrder, *, wishes: Sequence[Wish], ask: Ask) -> None:
        """`order` is a place: the epoch's choices are copied into it."""
        device = order.rows.device
        self.chunks = chunks
        self._order = order
        self._wishes, self._ask = wishes, ask
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        """[1]: the chunk that was written last."""
        self._range = torch.arange(chunks.num_images, device=device)
        self._rows: dict[Place, KeptRows] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nothing is read of any teacher."""
        return not any(places_of(self._wishes))

    def stand_before(self, chunk: int) -> None:
        """Let the next one that is written be `chunk`."""
        self._counter.fill_(chunk - 1)

    def advance(self, parity: int, size: int) -> None:
        """Write the next chunk, of `size` images, among those of its parity: 0 if it is even, or 1."""
        self.recall(parity, size, lambda places: self._ask(self._gather(places)))

    def recall(self, parity: int, size: int, read: Read) -> None:
        """Write the next chunk as well, but find what the teachers say instead of running them."""
        self._counter.add_(1)
        outputs = read(self._counter * self.chunks.num_images + self._range[:size])
        for place in places_of(self._wishes):
            found = pick(outputs, place)
            if place not in self._rows:
                self._rows[place] = KeptRows(found, 2 * self.chunks.num_images)
            self._rows[place].write(parity * self.chunks.num_images, found)

    def read(self, places: Tensor) -> tuple[Outputs, ...]:
        """Return what the teachers say to the images at `places` [B] of the epoch."""
        rows = places % (2 * self.chunks.num_images)
        return gather_outputs(self._wishes, lambda place: self._rows[place].read(rows))

    def _gather(self, places: Tensor) -> Tensor:
        return self.chunks.train.gather(self._order, places).images
