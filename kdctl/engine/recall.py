"""Teacher outputs from a table.

What the host must know, which views are missing, it asks once, when an epoch begins. Then everything is
queued without waiting: batches of missing views run and are kept before the chunk that needs them, and the
chunk is read from the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from kdctl.engine.batches import EpochOrder
from kdctl.engine.lookahead import Chunks
from kdctl.engine.teacher_outputs import Ask, Place, Wish, gather_outputs, pick
from kdctl.engine.teacher_table import TeacherTable
from kdctl.protocols.backbone import Outputs


class Recall:
    """Fills a table ahead of the chunks of an epoch, and says which of them it can serve.

    `aim`, `ask` and `keep` are queued one after the other for each batch of missing views; `ask` can be
    recorded, and so can `read`.
    """

    def __init__(
        self, table: TeacherTable, chunks: Chunks, order: EpochOrder, *, wishes: Sequence[Wish], ask: Ask
    ) -> None:
        """`order` is the place where each epoch's choices are copied to."""
        self._table, self.chunks, self._order = table, chunks, order
        self._wishes, self._ask = wishes, ask
        size, device = chunks.num_images, order.rows.device
        self._views = chunks.train.views(order)
        """[N]: which view stands at each place of the epoch."""
        self._aim = torch.arange(size, device=device)
        """[B]: the places that are asked about next."""
        self._missing = self._aim
        self._wanted: list[int] = []
        """The places that are missing, in order, for the host."""
        self._lacking: tuple[Place, ...] = ()
        self._num_aimed = self._num_kept = self._room = 0
        self._outputs: tuple[Outputs, ...] = ()

    def prepare(self, step: int = 0) -> bool:
        """Keep what teachers say to the chunk of a step; False if there is no room, or it is no whole chunk.

        Afterwards the table has its place in memory, and so `read` can be recorded.
        """
        chunk = self.chunks.of(step)
        if not self._is_whole(chunk):  # another size than a whole chunk may take another algorithm
            return False
        self.begin_epoch(step)
        if self.lacks(chunk):
            self.fill()
        first = self.chunks.first(chunk)
        views = self._views[first : first + self.chunks.num_images]
        return not bool(self._table.unknown(self._wishes, views).any())

    def begin_epoch(self, step: int) -> None:
        """See what is missing from `step` on of the order; the host waits for it."""
        chunks = self.chunks
        self._views.copy_(chunks.train.views(self._order))
        first, last = chunks.of(step), len(chunks) - 1
        end = chunks.first(last) + (chunks.num_images if self._is_whole(last) else 0)
        places = torch.arange(chunks.first(first), max(end, chunks.first(first)), device=self._views.device)
        self._missing = places[self._table.unknown(self._wishes, self._views[places])]
        self._lacking = self._table.lacking(self._wishes, self._views[self._missing])
        self._wanted = self._missing.tolist()
        self._num_aimed = self._num_kept = 0
        self._room = self._table.room(self._lacking)

    def lacks(self, chunk: int) -> bool:
        """Say whether views of a chunk are still to be asked about."""
        return self._num_aimed < self._num_missing(chunk)

    def can_serve(self, chunk: int) -> bool:
        """Say whether a chunk can be read once all that it lacks is kept: it is whole, and there is room."""
        return self._is_whole(chunk) and self._num_missing(chunk) <= self._reach

    def fill(self) -> None:
        """Keep what teachers say to the next missing views, at once."""
        self.aim()
        self.ask()
        self.keep()
        self.count()

    def aim(self) -> None:
        """Look at the next missing views; at those of the epoch's begin as well where fewer are left."""
        places = self._missing[self._num_kept : self._num_kept + len(self._aim)]
        self._aim[: len(places)] = places
        self._aim[len(places) :] = 0  # always the same shape

    def ask(self) -> None:
        """Run the teachers on what was aimed at."""
        self._outputs = self._ask(self.chunks.train.gather(self._order, self._aim).images)

    def keep(self) -> None:
        """Keep what they said."""
        count = min(len(self._aim), len(self._missing) - self._num_kept)
        heads = gather_outputs(self._wishes, lambda place: pick(self._outputs, place)[:count])
        self._table.write(self._lacking, self._views[self._aim[:count]], heads)
        self._num_kept += count

    def count(self) -> None:
        """Count one more batch of missing views as queued."""
        self._num_aimed = min(self._num_aimed + len(self._aim), len(self._wanted))

    def read(self, places: slice | Tensor) -> tuple[Outputs, ...]:
        """Return what the teachers say to the images at `places` of the epoch (a slice or [B]), all known."""
        return self._table.read(self._wishes, self._views[places])

    @property
    def _reach(self) -> int:
        """Return how many of the missing views there is room for, in whole batches but for the last."""
        if self._room >= len(self._wanted):
            return len(self._wanted)
        return self._room // len(self._aim) * len(self._aim)

    def _num_missing(self, chunk: int) -> int:
        """Return how many views were missing when the epoch began, up to the end of a whole chunk."""
        return bisect_left(self._wanted, self.chunks.first(chunk) + self.chunks.num_images)

    def _is_whole(self, chunk: int) -> bool:
        return self.chunks.size(chunk) == self.chunks.num_images


class TableReader:
    """Serves the plain steps of one epoch from a table, and fills it before them."""

    def __init__(self, recall: Recall, first_step: int) -> None:
        """Find which views are missing from `first_step` on."""
        recall.prepare(first_step)  # a new table knows its room once it holds a batch
        recall.begin_epoch(first_step)
        self._recall = recall

    def outputs(self, step: int) -> tuple[Outputs, ...] | None:
        """Return what the teachers say to the batch of a step, once that is kept; None if it cannot be."""
        recall = self._recall
        chunk = recall.chunks.of(step)
        if not recall.can_serve(chunk):
            return None
        while recall.lacks(chunk):
            recall.fill()
        first = recall.chunks.first(chunk)
        return recall.read(slice(first, first + recall.chunks.num_images))
