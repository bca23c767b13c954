"""Teachers that see several batches at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.member import Member
from kdctl.engine.teacher_lookahead import ChunkReader, Chunks, TeacherLookahead
from kdctl.engine.teacher_outputs import TeacherReads
from kdctl.engine.trainer import fit
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.recipe.engine_options import EngineOptions

WISHES = (TeacherReads(taps=("stage2", "stage2@4x4", "pooled"), logits=True),)

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[object, object], None]


class RunTeachers:
    """Runs a teacher and remembers how many images it saw at a time."""

    def __init__(self, teacher: Backbone) -> None:
        self.teacher = teacher
        self.sizes: list[int] = []

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Outputs, ...]:
        self.sizes.append(len(images))
        return (self.teacher.observe(images, WISHES[0].taps, with_logits=True),)


def all_of(outputs: tuple[Outputs, ...]) -> list[Tensor]:
    (seen,) = outputs
    return [seen.require_logits(), *seen.taps.values()]


@pytest.mark.parametrize(
    ("num_batches", "sizes"), [(1, [16, 16, 8]), (2, [32, 8]), (3, [40]), (100, [40])], ids=str
)
def test_chunks_hold_every_image_of_an_epoch_once(
    data: TrainingData, num_batches: int, sizes: list[int]
) -> None:
    chunks = Chunks(train=data.train, num_batches=num_batches)
    assert [chunks.size(chunk) for chunk in range(len(chunks))] == sizes
    ends = [chunks.first(chunk) + chunks.size(chunk) for chunk in range(len(chunks))]
    assert [chunks.first(chunk) for chunk in range(len(chunks))] == [0, *ends[:-1]]
    assert [chunks.of(step) for step in range(3)] == [step // num_batches for step in range(3)]


@pytest.mark.parametrize("num_batches", [1, 2, 3])
def test_a_batch_gets_what_teachers_say_to_its_images_from_one_pass_per_chunk(
    data: TrainingData, teacher: Backbone, num_batches: int
) -> None:
    train, order, run_teachers = data.train, data.train.order(0, 0), RunTeachers(teacher)
    chunks = Chunks(train=train, num_batches=num_batches)
    reader = ChunkReader(chunks, order, reads=WISHES, run_teachers=run_teachers)
    for step in range(train.num_steps):
        served, alone = reader.outputs(step), RunTeachers(teacher)(train.batch(order, step).images)
        for left, right in zip(all_of(served), all_of(alone), strict=True):
            torch.testing.assert_close(left, right)
    assert run_teachers.sizes == [chunks.size(chunk) for chunk in range(len(chunks))]


def test_from_the_middle_of_a_chunk_on_the_bits_are_the_same(data: TrainingData, teacher: Backbone) -> None:
    chunks, order = Chunks(train=data.train, num_batches=2), data.train.order(0, 0)
    whole, late = (
        ChunkReader(chunks, order, reads=WISHES, run_teachers=RunTeachers(teacher)) for _ in range(2)
    )
    whole.outputs(0)
    for left, right in zip(all_of(whole.outputs(1)), all_of(late.outputs(1)), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("num_batches", [1, 2])
def test_a_lookout_holds_one_chunk_while_it_writes_the_next(
    data: TrainingData, teacher: Backbone, num_batches: int
) -> None:
    train, order = data.train, data.train.order(0, 0)
    chunks = Chunks(train=train, num_batches=num_batches)
    lookahead = TeacherLookahead(chunks, order, reads=WISHES, run_teachers=RunTeachers(teacher))
    reader = ChunkReader(chunks, order, reads=WISHES, run_teachers=RunTeachers(teacher))
    lookahead.seek(0)
    lookahead.advance(0, chunks.size(0))
    for step in range(train.num_steps):
        chunk = chunks.of(step)
        if step % num_batches == 0 and chunk + 1 < len(chunks):
            lookahead.advance((chunk + 1) % 2, chunks.size(chunk + 1))
        places = torch.arange(step * 16, step * 16 + train.size(step))
        for left, right in zip(all_of(lookahead.read(places)), all_of(reader.outputs(step)), strict=True):
            assert torch.equal(left, right)
            assert left.shape[2:] == (1, 1) or left.stride() == right.stride()


@pytest.mark.extended
def test_a_gang_that_looks_ahead_gives_each_member_what_it_gets_alone(
    make_member: MakeMember, make_gang: MakeGang, record: type, assert_same_end: Check
) -> None:
    compute = Compute(device=torch.device("cpu"), options=EngineOptions(teacher_lookahead=2))
    gang = make_gang(*(make_member(method, folder="gang") for method in ("kd", "simkd")), compute=compute)
    fit(gang, record())
    for member, method in zip(gang.members, ("kd", "simkd"), strict=True):
        solo = make_gang(make_member(method, folder="solo"), compute=compute)
        fit(solo, record())
        assert_same_end(member, solo.members[0])
