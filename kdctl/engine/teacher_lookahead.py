"""Outputs of frozen teachers, computed ahead of the steps that read them.

The order of an epoch is known when it begins. So the teachers may run on the batches of several steps at
once, a chunk, which takes a GPU less time than one batch after the other. And while the students train on
one chunk, the teachers can already run on the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdctl.engine.batches import EpochOrder
from kdctl.engine.streamed_batches import TrainingBatches
from kdctl.engine.teacher_outputs import (
    KeptRows,
    OutputName,
    RunTeachers,
    TeacherReads,
    gather_outputs,
    outputs_of,
    pick,
)
from kdctl.protocols.backbone import Outputs

Read = Callable[[Tensor], tuple[Outputs, ...]]
"""Returns the teacher outputs on the images at places [B] of the epoch."""


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """The steps of an epoch in groups; the teachers run on all batches of a group at once."""

    train: TrainingBatches
    num_batches: int
    """Per chunk; the last chunk may have fewer."""

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
    """Serves the eager steps of one epoch: at a chunk's first step the teachers run on the whole chunk."""

    def __init__(
        self, chunks: Chunks, order: EpochOrder, *, reads: Sequence[TeacherReads], run_teachers: RunTeachers
    ) -> None:
        """Nothing is run yet."""
        self._chunks, self._order = chunks, order
        self._reads, self._run_teachers = reads, run_teachers
        self._chunk = -1
        self._seen: tuple[Outputs, ...] = ()

    def outputs(self, step: int) -> tuple[Outputs, ...]:
        """Return the teacher outputs on the batch of a step."""
        chunks, train, chunk = self._chunks, self._chunks.train, self._chunks.of(step)
        first = chunks.first(chunk)
        if chunk != self._chunk:
            places = slice(first, first + chunks.size(chunk))
            self._seen = self._run_teachers(train.gather(self._order, places).images)
            self._chunk = chunk
        start = step * train.batch_size - first
        rows = slice(start, start + train.size(step))
        return gather_outputs(self._reads, lambda place: pick(self._seen, place)[rows])


class TeacherLookahead:
    """Keeps the teacher outputs of two chunks: the one that steps read, and the one written meanwhile.

    There is memory for two chunks: the outputs of an even chunk overwrite those of the even chunk before it,
    those of an odd one the odd one's. All that changes from chunk to chunk is in tensors whose memory stays
    the same, so that the work can be recorded as a CUDA graph.
    """

    def __init__(
        self, chunks: Chunks, order: EpochOrder, *, reads: Sequence[TeacherReads], run_teachers: RunTeachers
    ) -> None:
        """`order` is where the random choices of each epoch are copied to."""
        device = order.rows.device
        self.chunks = chunks
        self._order = order
        self._reads, self._run_teachers = reads, run_teachers
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        """[1]: the number of the chunk that was written last."""
        self._range = torch.arange(chunks.num_images, device=device)
        self._rows: dict[OutputName, KeptRows] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no method reads any teacher output."""
        return not any(outputs_of(self._reads))

    def seek(self, chunk: int) -> None:
        """Let `chunk` be the next one that is written."""
        self._counter.fill_(chunk - 1)

    def advance(self, parity: int, size: int) -> None:
        """Run the teachers on the next chunk, of `size` images; its number is even (parity 0) or odd (1)."""
        self.write_from(parity, size, lambda places: self._run_teachers(self._gather(places)))

    def write_from(self, parity: int, size: int, read: Read) -> None:
        """Write the next chunk with the outputs that `read` returns, instead of running the teachers."""
        self._counter.add_(1)
        outputs = read(self._counter * self.chunks.num_images + self._range[:size])
        for place in outputs_of(self._reads):
            found = pick(outputs, place)
            if place not in self._rows:
                self._rows[place] = KeptRows(found, 2 * self.chunks.num_images)
            self._rows[place].write(parity * self.chunks.num_images, found)

    def read(self, places: Tensor) -> tuple[Outputs, ...]:
        """Return the teacher outputs on the images at `places` [B] of the epoch."""
        rows = places % (2 * self.chunks.num_images)
        return gather_outputs(self._reads, lambda place: self._rows[place].read(rows))

    def _gather(self, places: Tensor) -> Tensor:
        return self.chunks.train.gather(self._order, places).images
