"""What frozen teachers say to the views of each image, kept: crop and flip give 162 of them, and no more.

A view that was seen before is read from memory instead of running the teachers again. The numbers are
the same bit for bit: outputs are kept in the precision and layout they were computed in, unknown views run
in batches of exactly the size they would have come in, and `rows_are_independent` tries on the device at
hand that an image's outputs do not depend on its neighbours in the batch. A last, shorter batch is not
served: another size may take another algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

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


class TeacherTable:
    """Outputs of the same teachers on the same training set; shared by all gangs that read them."""

    def __init__(self, num_views: int, num_bytes: int) -> None:
        """Keep outputs of at most `num_bytes`; the index takes 4 bytes for each view on top."""
        self._num_views = num_views
        self._num_bytes = num_bytes
        self._columns: dict[OutputName, _Column] = {}

    @property
    def num_bytes(self) -> int:
        """Return how much memory the outputs take that are kept."""
        return sum(column.num_bytes for column in self._columns.values())

    def unknown(self, reads: Sequence[TeacherReads], views: Tensor) -> Tensor:
        """Return for each of `views` [B] whether it lacks an output in `reads`: [B], bool."""
        columns = [self._columns.get(name) for name in outputs_of(reads)]
        missing = torch.zeros_like(views, dtype=torch.bool)
        for column in columns:
            missing |= True if column is None else column.unknown(views)
        return missing

    def lacking(self, reads: Sequence[TeacherReads], views: Tensor) -> tuple[OutputName, ...]:
        """Return the outputs in `reads` that one of `views` [B], or several, lack."""
        columns = ((place, self._columns.get(place)) for place in outputs_of(reads))
        return tuple(place for place, found in columns if found is None or bool(found.unknown(views).any()))

    def room(self, places: Sequence[OutputName]) -> int:
        """Return for how many more views there is room.

        Only columns that exist tell; before the first write the answer is the number of all views.
        """
        known = (self._columns[place].room for place in places if place in self._columns)
        return min(known, default=self._num_views)

    def write(self, places: Sequence[OutputName], views: Tensor, outputs: Sequence[Outputs]) -> bool:
        """Keep some outputs of what the teachers said to `views` [B]; False if there is no room."""
        found = {place: pick(outputs, place) for place in places}
        self._make_columns({place: values for place, values in found.items() if place not in self._columns})
        if self.room(places) < len(views):
            return False
        for place, rows in found.items():
            self._columns[place].write(views, rows)
        return True

    def read(self, reads: Sequence[TeacherReads], views: Tensor) -> tuple[Outputs, ...]:
        """Return the outputs in `reads` of `views` [B], all of which are stored."""
        return gather_outputs(reads, lambda place: self._columns[place].read(views))

    def _make_columns(self, examples: Mapping[OutputName, Tensor]) -> None:
        """Make new columns with as many rows each as all of them together have memory for."""
        reserved = sum(column.reserved_bytes for column in self._columns.values())
        wanted = sum(example[0].numel() * example.element_size() for example in examples.values())
        capacity = min(self._num_views, (self._num_bytes - reserved) // max(wanted, 1))
        for name, example in examples.items():
            self._columns[name] = _Column(example, self._num_views, capacity)


def row_bytes(reads: Sequence[TeacherReads], outputs: Sequence[Outputs]) -> int:
    """Return the bytes that the outputs in `reads` take for one view."""
    rows = (pick(outputs, name)[0] for name in outputs_of(reads))
    return sum(row.numel() * row.element_size() for row in rows)


@torch.no_grad()
def rows_are_independent(
    train: TrainingBatches, reads: Sequence[TeacherReads], run_teachers: RunTeachers
) -> bool:
    """Try whether a teacher gives an image the same bits at another place of a batch of other images.

    The memory layout must be the same as well. Where bits or layout differ, or where the training set is
    smaller than a batch, a table must not be used.
    """
    size = train.batch_size
    if len(train) < size:
        return False
    order = train.order(0, 0)
    places = torch.arange(size, device=order.rows.device)
    others = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:size].to(places.device)
    kept = places % 2 == 0
    alone = run_teachers(train.gather(order, places).images)
    among = run_teachers(train.gather(order, torch.where(kept, places.roll(2), others)).images)
    for name in outputs_of(reads):
        here, there = pick(alone, name), pick(among, name)
        copy = _Column(here, size, size)
        copy.write(places, here)
        if not (torch.equal(here.roll(2, 0)[kept], there[kept]) and _same_layout(copy.read(places), here)):
            return False
    return True


class _Column:
    """One output of one teacher, for the views that were seen."""

    def __init__(self, example: Tensor, num_views: int, capacity: int) -> None:
        """Make room for `capacity` rows like those of `example` [B, ...]."""
        self._slots = torch.full((num_views,), -1, dtype=torch.int32, device=example.device)
        self._rows = KeptRows(example, capacity)
        self._used = 0

    @property
    def num_bytes(self) -> int:
        return self._used * self._rows.row_bytes

    @property
    def reserved_bytes(self) -> int:
        return len(self._rows) * self._rows.row_bytes

    @property
    def room(self) -> int:
        """Return how many rows more there is room for."""
        return len(self._rows) - self._used

    def unknown(self, views: Tensor) -> Tensor:
        return self._slots[views] < 0

    def write(self, views: Tensor, rows: Tensor) -> None:
        slots = torch.arange(self._used, self._used + len(views), device=views.device)
        self._slots[views] = slots.int()
        self._rows.write(self._used, rows)
        self._used += len(views)

    def read(self, views: Tensor) -> Tensor:
        return self._rows.read(self._slots[views].long())


def _same_layout(left: Tensor, right: Tensor) -> bool:
    """Compare strides; where a dimension has one entry, its stride means nothing."""
    pairs = zip(left.stride(), right.stride(), right.shape, strict=True)
    return all(mine == theirs for mine, theirs, size in pairs if size > 1)
