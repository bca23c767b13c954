"""Recorded steps whose streams overtake each other: whatever the order, the bits are those of plain steps.

By default one order of each kind is tried; the rest is slow.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang
from kdctl.engine.graphs import GraphedSteps
from kdctl.engine.member import Member
from kdctl.engine.teacher_table import TeacherTable, row_bytes
from kdctl.engine.trainer import fit
from kdctl.recipe.engine_options import EngineOptions

METHODS = ("ce", {"name": "kd", "temperature": 3.0}, "simkd")
MEMORY = ("plenty", "one batch and a half", "hardly any")
"""For how many teacher outputs a table has memory."""

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]


class UnrulyStream:
    """A stream that does its work late, and in the wildest order against others that its waits allow."""

    def __init__(self, others: UnrulyStreams) -> None:
        self.others = others
        self.queue: deque[Callable[[], None] | tuple[UnrulyStream, int]] = deque()
        """Work, or another stream with the number of works that must be done there before."""
        self.num_queued = self.num_done = 0

    def run(self, work: Callable[[], None]) -> None:
        self.queue.append(work)
        self.num_queued += 1

    def record(
        self, work: Callable[[], None], *, warm_up: Callable[[], None], randomness: object = None
    ) -> Callable[[], None]:
        self.others.finish()
        return self.others.tapes.record(work, warm_up=warm_up, randomness=randomness)

    def wait_for(self, other: object) -> None:
        if isinstance(other, UnrulyStream):
            self.queue.append((other, other.num_queued))

    def go_on(self) -> bool:
        """Do the next work; False if there is none, or it must wait."""
        while self.queue:
            if callable(self.queue[0]):
                self.queue.popleft()()  # type: ignore[operator]
                self.num_done += 1
                return True
            other, number = self.queue[0]
            if other.num_done < number:
                return False
            self.queue.popleft()
        return False


class HostStream:
    """The stream of code that knows no streams: what it waits for is done."""

    def __init__(self, others: UnrulyStreams) -> None:
        self.others = others

    def run(self, work: Callable[[], None]) -> None:
        work()

    def wait_for(self, other: object) -> None:
        self.others.finish()


class UnrulyStreams:
    """Stands in for streams whose work overlaps as a GPU pleases, differently for each seed.

    Args:
        tapes: a stream whose records are tapes.
        seed: of the order.
    """

    def __init__(self, tapes: Any, seed: int) -> None:
        self.tapes = tapes
        self.random = random.Random(seed)
        self.streams: list[UnrulyStream] = []

    def open(self) -> UnrulyStream:
        self.streams.append(UnrulyStream(self))
        return self.streams[-1]

    def current(self) -> HostStream:
        return HostStream(self)

    def finish(self) -> None:
        """Do all that is queued; one stream runs ahead of the others as far as it can, then another."""
        while any(stream.queue for stream in self.streams):
            order = self.random.sample(self.streams, len(self.streams))
            done = False
            for stream in order:
                while stream.go_on():
                    done = True
            assert done or not any(stream.queue for stream in self.streams), "streams wait for each other"


@pytest.mark.parametrize(
    ("lookahead", "haste"),
    [
        pytest.param(lookahead, haste, marks=pytest.mark.slow if haste else ())
        for lookahead in (1, 2)
        for haste in range(8)
    ],
)
@pytest.mark.extended
def test_however_streams_overtake_each_other_the_bits_stay(
    make_recordable: MakeMember,
    make_gang: MakeGang,
    record: type,
    tape_streams: type,
    assert_same_end: Check,
    haste: int,
    lookahead: int,
) -> None:
    gangs = [
        make_gang(
            *(make_recordable(method, folder=folder) for method in METHODS),
            compute=Compute(device=torch.device("cpu"), options=EngineOptions(teacher_lookahead=lookahead)),
        )
        for folder in ("plain", "replayed")
    ]
    fit(gangs[0], record())
    streams = UnrulyStreams(tape_streams().open(), haste)
    fit(gangs[1], record(), steps=GraphedSteps(gangs[1], streams, required=True))
    for left, right in zip(*(gang.members for gang in gangs), strict=True):
        assert_same_end(left, right)


@pytest.mark.parametrize(
    ("memory", "others", "haste"),
    [
        pytest.param(
            memory, others, haste, marks=() if haste == row and others is (row != 1) else pytest.mark.slow
        )
        for row, memory in enumerate(MEMORY)
        for others in (False, True)
        for haste in range(6)
    ],
)
@pytest.mark.extended
def test_with_kept_teacher_outputs_the_bits_stay(
    make_recordable: MakeMember,
    make_gang: MakeGang,
    record: type,
    tape_streams: type,
    assert_same_end: Check,
    haste: int,
    memory: str,
    others: bool,
) -> None:
    methods = METHODS if others else ("kd",)
    plain = make_gang(*(make_recordable(method, folder="plain") for method in methods))
    fit(plain, record())
    train, reads = plain.data.train, plain.reads()
    row = row_bytes(reads, plain.run_teachers(train.batch(train.order(0, 0), 0).images, reads))
    views = torch.cat([train.views(train.order(0, epoch))[:32] for epoch in range(3)])  # of whole batches
    num_rows, num_kept = dict(zip(MEMORY, ((10_000, len(views.unique())), (24, 16), (3, 0)), strict=True))[
        memory
    ]
    table = TeacherTable(train.num_views, num_rows * row)
    for folder in ("filling", "known"):
        gang = make_gang(*(make_recordable(m, folder=folder) for m in methods), table=table)
        steps = GraphedSteps(gang, UnrulyStreams(tape_streams().open(), haste), required=True)
        fit(gang, record(), steps=steps)
        for left, right in zip(plain.members, gang.members, strict=True):
            assert_same_end(left, right)
        assert table.num_bytes == num_kept * row
        assert steps.executed_as(gang.members[0]) == "graphs, teacher outputs kept"
