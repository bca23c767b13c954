"""What recorded members share: batches, and what teachers say, each on a lane of its own.

Teachers run a chunk ahead: while members work on the steps of one chunk, the teachers see the images of the
next one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from kdctl.engine.batches import EpochOrder
from kdctl.engine.gang import Gang
from kdctl.engine.lanes import Lane, Lanes, Work
from kdctl.engine.lookahead import Lookout
from kdctl.engine.pieces import Feed
from kdctl.engine.recall import Recall

REHEARSALS = 3
"""Runs before a record: libraries choose their algorithms and take their memory in the first ones."""


class CannotRecordError(Exception):
    """Not even batch and teachers can be recorded: the gang must take its steps in another way."""


class Supply:
    """Records how batches and teacher outputs are made, and replays it."""

    def __init__(self, gang: Gang, lanes: Lanes) -> None:
        """Nothing is recorded yet."""
        self._gang = gang
        self._lanes = lanes
        self.lane = lanes.open()
        """Where batches come from: members wait for it, and it for them."""
        self._teacher_lane = lanes.open()
        self._recorded: Feed | None = None
        self._feeding: dict[int, Work] = {}
        """By the number of images in the batch."""
        self._looking: dict[tuple[int, int], Work] = {}
        """By the parity and the number of images of a chunk; empty if nothing is read of teachers."""
        self._recalling: dict[int, Work] = {}
        """By the parity of a chunk; empty if no outputs are kept."""
        self._recall: Recall | None = None
        self._asking: Work | None = None
        """Runs the teachers on views that are to be kept."""
        self._chunk = -1
        """The chunk whose outputs can be read."""

    @property
    def lanes(self) -> tuple[Lane, Lane]:
        """Return both lanes."""
        return self.lane, self._teacher_lane

    @property
    def feed(self) -> Feed:
        """Return what members read.

        Raises:
            ValueError: nothing is recorded yet.
        """
        if self._recorded is None:
            raise ValueError("begin_epoch comes before the first step")
        return self._recorded

    def open(self, order: EpochOrder) -> None:
        """Record the teachers' part for all kinds of chunks.

        Raises:
            CannotRecordError: it cannot be recorded.
        """
        self._recorded = feed = Feed(self._gang, order)
        self._looking, self._recalling, self._recall = {}, {}, None
        chunks, lookout = feed.lookout.chunks, feed.lookout
        if lookout.is_idle:
            return
        kinds = {(chunk % 2, chunks.size(chunk)): chunk for chunk in range(len(chunks))}
        for kind, chunk in kinds.items():
            stand = functools.partial(lookout.stand_before, chunk)
            look = functools.partial(lookout.advance, *kind)
            self._looking[kind] = _record(self._teacher_lane, stand, look)
        if feed.recall is not None and feed.recall.prepare():
            self._recall = feed.recall
            self._open_table(lookout, feed.recall)

    def _open_table(self, lookout: Lookout, recall: Recall) -> None:
        """Record how teachers are asked what is missing, and how a chunk is read."""
        self._asking = _record(self._teacher_lane, recall.aim, recall.ask)
        for parity in {chunk % 2 for chunk in range(len(lookout.chunks))}:
            stand = functools.partial(lookout.stand_before, 0)
            read = functools.partial(lookout.recall, parity, lookout.chunks.num_images, recall.read)
            self._recalling[parity] = _record(self._teacher_lane, stand, read)

    def record_batch(self, step: int) -> None:
        """Record how a batch as large as that of `step` is made, and make that of `step` itself.

        Raises:
            CannotRecordError: it cannot be recorded.
        """
        feed, size = self.feed, self._gang.data.train.size(step)
        current = self._lanes.current()
        for lane in self.lanes:
            current.wait_for(lane)
        self._stand_before(step)
        for lane in self.lanes:
            lane.wait_for(current)
        self._watch(feed.lookout.chunks.of(step))
        self.lane.wait_for(self._teacher_lane)
        stand = functools.partial(feed.stand_before, step)
        self._feeding[size] = _record(self.lane, stand, functools.partial(feed.advance, size))
        self.lane.run(self._feeding[size])

    def begin_epoch(self, order: EpochOrder, step: int, after: Lane) -> None:
        """Stand before `step` of an epoch, once what is queued on `after` is done; teachers begin."""
        self.feed.take_over(order)
        self._stand_before(step)
        if self._recall is not None:
            self._recall.begin_epoch(step)
        for lane in self.lanes:
            lane.wait_for(after)
        self._look(self.feed.lookout.chunks.of(step))

    def advance(self, step: int) -> None:
        """Queue the batch of the next step, `step`."""
        chunks = self.feed.lookout.chunks
        chunk = chunks.of(step)
        if chunk != self._chunk:
            self._chunk = chunk
            self.lane.wait_for(self._teacher_lane)
            if chunk + 1 < len(chunks):
                self._look(chunk + 1)
        self.lane.run(self._feeding[self._gang.data.train.size(step)])

    def _stand_before(self, step: int) -> None:
        self.feed.stand_before(step)
        self.feed.lookout.stand_before(self.feed.lookout.chunks.of(step))
        self._chunk = -1

    def _look(self, chunk: int) -> None:
        """Let what teachers say to a chunk be found: in the table where it can be."""
        recall = self._recall
        if recall is None or not recall.can_serve(chunk):
            self._watch(chunk)
            return
        while recall.lacks(chunk):
            self._keep_more(recall)
        self._teacher_lane.wait_for(self.lane)
        self._teacher_lane.run(self._recalling[chunk % 2])

    def _watch(self, chunk: int) -> None:
        """Let teachers see a chunk, once no step needs the one that lies in its place."""
        if self._looking:
            self._teacher_lane.wait_for(self.lane)
            self._teacher_lane.run(self._looking[chunk % 2, self.feed.lookout.chunks.size(chunk)])

    def _keep_more(self, recall: Recall) -> None:
        """Queue that teachers see missing views, a batch of them, and that the table keeps what they say."""
        assert self._asking is not None
        for work in (recall.aim, self._asking, recall.keep):
            self._teacher_lane.run(work)
        recall.count()


def _record(lane: Lane, stand: Callable[[], None], work: Work) -> Work:
    def rehearse() -> None:
        for _ in range(REHEARSALS):
            stand()
            work()
        stand()

    try:
        return lane.record(work, rehearse=rehearse)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CannotRecordError(f"batch and teachers cannot be recorded ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """Return what an error says first, without its full stop."""
    return (str(error).partition("\n")[0] or type(error).__name__).rstrip(".")
