"""What the recorded steps of a gang share: batches and teacher outputs, each made on a stream of its own.

Teachers run one chunk of batches ahead: while the members train on chunk n, the teachers already run on
the images of chunk n + 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from kdctl.engine.batches import EpochOrder
from kdctl.engine.gang import Gang
from kdctl.engine.recorded_work import RecordedBatches
from kdctl.engine.streams import Stream, Streams, Work
from kdctl.engine.table_filler import TableFiller
from kdctl.engine.teacher_lookahead import TeacherLookahead

WARM_UP_RUNS = 3
"""Before a record: libraries choose their algorithms and allocate their workspaces in the first runs."""


class CannotRecordError(Exception):
    """Neither batches nor teachers can be recorded, so the gang has to take eager steps."""


class RecordedInputs:
    """Records how batches and teacher outputs are made, and replays it."""

    def __init__(self, gang: Gang, streams: Streams) -> None:
        """Nothing is recorded yet."""
        self._gang = gang
        self._streams = streams
        self.stream = streams.open()
        """Makes batches. Members wait for it before they read a batch, and it waits for the members before it
        overwrites one."""
        self._teacher_stream = streams.open()
        self._batches: RecordedBatches | None = None
        self._batch_records: dict[int, Work] = {}
        """Make a batch; by its number of images, since the last batch of an epoch may be smaller."""
        self._chunk_records: dict[tuple[int, int], Work] = {}
        """Run the teachers on a chunk; by its parity and number of images. Empty if no teacher is read."""
        self._read_records: dict[int, Work] = {}
        """Read a chunk from the table of teacher outputs; by its parity. Empty without a table."""
        self._filler: TableFiller | None = None
        self._fill_record: Work | None = None
        """Runs the teachers on views that the table lacks."""
        self._chunk = -1
        """The chunk whose teacher outputs the members read now."""

    @property
    def streams(self) -> tuple[Stream, Stream]:
        """Return both streams."""
        return self.stream, self._teacher_stream

    @property
    def batches(self) -> RecordedBatches:
        """Return where the members find batch and teacher outputs.

        Raises:
            ValueError: nothing is recorded yet.
        """
        if self._batches is None:
            raise ValueError("begin_epoch comes before the first step")
        return self._batches

    def open(self, order: EpochOrder) -> None:
        """Record the teachers' work for each kind of chunk: even or odd, whole or shorter.

        Raises:
            CannotRecordError: it cannot be recorded.
        """
        self._batches = batches = RecordedBatches(self._gang, order)
        self._chunk_records, self._read_records, self._filler = {}, {}, None
        chunks, lookahead = batches.lookahead.chunks, batches.lookahead
        if lookahead.is_idle:
            return
        kinds = {(chunk % 2, chunks.size(chunk)): chunk for chunk in range(len(chunks))}
        for kind, chunk in kinds.items():
            seek = functools.partial(lookahead.seek, chunk)
            advance = functools.partial(lookahead.advance, *kind)
            self._chunk_records[kind] = _record(self._teacher_stream, seek, advance)
        if batches.filler is not None and batches.filler.prepare():
            self._filler = batches.filler
            self._open_table(lookahead, batches.filler)

    def _open_table(self, lookahead: TeacherLookahead, filler: TableFiller) -> None:
        """Record how the table is filled and how a chunk is read from it."""
        self._fill_record = _record(self._teacher_stream, filler.select_missing, filler.run_teachers)
        for parity in {chunk % 2 for chunk in range(len(lookahead.chunks))}:
            seek = functools.partial(lookahead.seek, 0)
            read = functools.partial(lookahead.write_from, parity, lookahead.chunks.num_images, filler.read)
            self._read_records[parity] = _record(self._teacher_stream, seek, read)

    def record_batch(self, step: int) -> None:
        """Record how a batch of the size of that of `step` is made, and make the batch of `step`.

        Raises:
            CannotRecordError: it cannot be recorded.
        """
        batches, size = self.batches, self._gang.data.train.size(step)
        current = self._streams.current()
        for stream in self.streams:
            current.wait_for(stream)
        self._seek(step)
        for stream in self.streams:
            stream.wait_for(current)
        self._run_chunk(batches.lookahead.chunks.of(step))
        self.stream.wait_for(self._teacher_stream)
        seek = functools.partial(batches.seek, step)
        self._batch_records[size] = _record(self.stream, seek, functools.partial(batches.advance, size))
        self.stream.run(self._batch_records[size])

    def begin_epoch(self, order: EpochOrder, step: int, after: Stream) -> None:
        """Go to `step` of an epoch once the work queued on `after` is done, and start the teachers."""
        self.batches.copy_from(order)
        self._seek(step)
        if self._filler is not None:
            self._filler.begin_epoch(step)
        for stream in self.streams:
            stream.wait_for(after)
        chunks = self.batches.lookahead.chunks
        if chunks.of(step) < len(chunks):  # a state saved after the last step leaves only the evaluation
            self._prepare_chunk(chunks.of(step))

    def advance(self, step: int) -> None:
        """Queue the batch of the next step, `step`."""
        chunks = self.batches.lookahead.chunks
        chunk = chunks.of(step)
        if chunk != self._chunk:
            self._chunk = chunk
            self.stream.wait_for(self._teacher_stream)
            if chunk + 1 < len(chunks):
                self._prepare_chunk(chunk + 1)
        self.stream.run(self._batch_records[self._gang.data.train.size(step)])

    def _seek(self, step: int) -> None:
        self.batches.seek(step)
        self.batches.lookahead.seek(self.batches.lookahead.chunks.of(step))
        self._chunk = -1

    def _prepare_chunk(self, chunk: int) -> None:
        """Queue the teacher outputs of a chunk: read from the table where it has them, else computed."""
        filler = self._filler
        if filler is None or not filler.can_serve(chunk):
            self._run_chunk(chunk)
            return
        while filler.lacks(chunk):
            self._fill_table(filler)
        self._teacher_stream.wait_for(self.stream)
        self._teacher_stream.run(self._read_records[chunk % 2])

    def _run_chunk(self, chunk: int) -> None:
        """Queue the teachers' forward passes on a chunk.

        They overwrite the outputs of the chunk two before it, so they wait for the last batch that needs it.
        """
        if self._chunk_records:
            self._teacher_stream.wait_for(self.stream)
            self._teacher_stream.run(
                self._chunk_records[chunk % 2, self.batches.lookahead.chunks.size(chunk)]
            )

    def _fill_table(self, filler: TableFiller) -> None:
        """Queue the teachers' forward pass on a batch of views that the table lacks, and the storing."""
        assert self._fill_record is not None
        for work in (filler.select_missing, self._fill_record, filler.store):
            self._teacher_stream.run(work)
        filler.count_batch()


def _record(stream: Stream, seek: Callable[[], None], work: Work) -> Work:
    def warm_up() -> None:
        for _ in range(WARM_UP_RUNS):
            seek()
            work()
        seek()

    try:
        return stream.record(work, warm_up=warm_up)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CannotRecordError(f"batch and teachers cannot be recorded ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """Return what an error says first, without its full stop."""
    return (str(error).partition("\n")[0] or type(error).__name__).rstrip(".")
