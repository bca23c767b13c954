"""Fills a table of teacher outputs ahead of the steps that read it.

An epoch's views are known when it begins. So the host asks the device once which of them the table lacks.
From then on everything is queued without waiting: the teachers run on the missing views of a chunk, their
outputs are stored, and the chunk is read from the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from kdctl.engine.batches import EpochOrder
from kdctl.engine.teacher_lookahead import Chunks
from kdctl.engine.teacher_outputs import OutputName, RunTeachers, TeacherReads, gather_outputs, pick
from kdctl.engine.teacher_table import TeacherTable
from kdctl.protocols.backbone import Outputs


class TableFiller:
    """Stores the teacher outputs that a table lacks, and says which chunks of an epoch the table can serve.

    `select_missing`, `run_teachers` and `store` are queued, in this order, for each batch of missing views.
    CUDA graphs can record `run_teachers` and `read`.
    """

    def __init__(
        self,
        table: TeacherTable,
        chunks: Chunks,
        order: EpochOrder,
        *,
        reads: Sequence[TeacherReads],
        run_teachers: RunTeachers,
    ) -> None:
        """`order` is where the random choices of each epoch are copied to."""
        self._table, self.chunks, self._order = table, chunks, order
        self._reads, self._run_teachers = reads, run_teachers
        size, device = chunks.num_images, order.rows.device
        self._views = chunks.train.views(order)
        """[N]: which view stands at each place of the epoch."""
        self._selected = torch.arange(size, device=device)
        """[B]: the places of the epoch that the teachers run on next."""
        self._missing = self._selected
        """[M]: the places of the epoch whose views the table lacked at its beginning, in order."""
        self._missing_places: list[int] = []
        """The same numbers on the host, so that later questions do not wait for the device."""
        self._lacking: tuple[OutputName, ...] = ()
        """The outputs that are to be stored: some view lacks them."""
        self._num_selected = 0
        """How many missing views are queued: the host counts ahead of the device."""
        self._num_kept = 0
        """How many of them `store` was queued for."""
        self._room = 0
        """For how many more views the table had room when the epoch began."""
        self._outputs: tuple[Outputs, ...] = ()

    def prepare(self, step: int = 0) -> bool:
        """Store the teacher outputs of the chunk of a step; return False if the table has no room for it.

        The shorter last chunk of an epoch is never stored: at another batch size a device may choose
        another algorithm, with other bits.

        Afterwards the table has allocated its memory, so `read` can be recorded.
        """
        chunk = self.chunks.of(step)
        if not self._is_whole(chunk):
            return False
        self.begin_epoch(step)
        if self.lacks(chunk):
            self.fill()
        first = self.chunks.first(chunk)
        views = self._views[first : first + self.chunks.num_images]
        return not bool(self._table.unknown(self._reads, views).any())

    def begin_epoch(self, step: int) -> None:
        """Find the views from `step` on that the table lacks; the host waits for the device here."""
        chunks = self.chunks
        self._views.copy_(chunks.train.views(self._order))
        first, last = chunks.of(step), len(chunks) - 1
        end = chunks.first(last) + (chunks.num_images if self._is_whole(last) else 0)
        places = torch.arange(chunks.first(first), max(end, chunks.first(first)), device=self._views.device)
        self._missing = places[self._table.unknown(self._reads, self._views[places])]
        self._lacking = self._table.lacking(self._reads, self._views[self._missing])
        self._missing_places = self._missing.tolist()
        self._num_selected = self._num_kept = 0
        self._room = self._table.room(self._lacking)

    def lacks(self, chunk: int) -> bool:
        """Say whether some outputs of a chunk are not even queued yet."""
        return self._num_selected < self._num_missing(chunk)

    def can_serve(self, chunk: int) -> bool:
        """Say whether the table can serve a chunk once filled: the chunk is whole, and there is room."""
        return self._is_whole(chunk) and self._num_missing(chunk) <= self._reach

    def fill(self) -> None:
        """Run the teachers on the next batch of missing views and store their outputs."""
        self.select_missing()
        self.run_teachers()
        self.store()
        self.count_batch()

    def select_missing(self) -> None:
        """Select the next batch of missing views; the last batch is filled up with the epoch's first view."""
        places = self._missing[self._num_kept : self._num_kept + len(self._selected)]
        self._selected[: len(places)] = places
        self._selected[len(places) :] = 0  # a recorded pass needs the same shape each time

    def run_teachers(self) -> None:
        """Run the teachers on the selected views."""
        self._outputs = self._run_teachers(self.chunks.train.gather(self._order, self._selected).images)

    def store(self) -> None:
        """Store the teachers' outputs on the selected views in the table."""
        count = min(len(self._selected), len(self._missing) - self._num_kept)
        heads = gather_outputs(self._reads, lambda place: pick(self._outputs, place)[:count])
        self._table.write(self._lacking, self._views[self._selected[:count]], heads)
        self._num_kept += count

    def count_batch(self) -> None:
        """Count one more batch of missing views as queued."""
        self._num_selected = min(self._num_selected + len(self._selected), len(self._missing_places))

    def read(self, places: slice | Tensor) -> tuple[Outputs, ...]:
        """Return the teacher outputs at `places` of the epoch (a slice or [B]), all of which are stored."""
        return self._table.read(self._reads, self._views[places])

    @property
    def _reach(self) -> int:
        """Return how many of the missing views the table can take: all, or as many whole batches as fit."""
        if self._room >= len(self._missing_places):
            return len(self._missing_places)
        return self._room // len(self._selected) * len(self._selected)

    def _num_missing(self, chunk: int) -> int:
        """Return how many views up to the end of a whole chunk were missing when the epoch began."""
        return bisect_left(self._missing_places, self.chunks.first(chunk) + self.chunks.num_images)

    def _is_whole(self, chunk: int) -> bool:
        return self.chunks.size(chunk) == self.chunks.num_images


class TableReader:
    """Serves the eager steps of one epoch from a table, and fills it before them."""

    def __init__(self, filler: TableFiller, first_step: int) -> None:
        """Find which views are missing from `first_step` on."""
        filler.prepare(first_step)  # a new table knows its room once it holds a batch
        filler.begin_epoch(first_step)
        self._filler = filler

    def outputs(self, step: int) -> tuple[Outputs, ...] | None:
        """Return the teacher outputs on the batch of a step; None if the table has no room for them."""
        filler = self._filler
        chunk = filler.chunks.of(step)
        if not filler.can_serve(chunk):
            return None
        while filler.lacks(chunk):
            filler.fill()
        first = filler.chunks.first(chunk)
        return filler.read(slice(first, first + filler.chunks.num_images))
