from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from kdctl.engine.batches import TrainingSet
from kdctl.engine.frozen import frozen_copy
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.member import Member
from kdctl.engine.table_filler import TableFiller, TableReader
from kdctl.engine.teacher_lookahead import Chunks
from kdctl.engine.teacher_outputs import TeacherReads, outputs_of
from kdctl.engine.teacher_table import TeacherTable, rows_are_independent
from kdctl.engine.trainer import fit
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.recipe.engine_options import EngineOptions

PLENTY = 2**30
WISHES = (TeacherReads(taps=("stage2", "stage2@3x4", "pooled"), logits=True),)
METHODS: tuple[Any, ...] = ("kd", "simkd", {"name": "at"})

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]


class RunTeachers:
    """Runs a teacher and counts the images it saw."""

    def __init__(self, teacher: Backbone) -> None:
        self.teacher = teacher
        self.batches: list[int] = []

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Outputs, ...]:
        self.batches.append(len(images))
        (read_of,) = WISHES
        return (self.teacher.observe(images, read_of.taps, with_logits=read_of.logits),)


@pytest.fixture
def train(data: TrainingData) -> TrainingSet:
    return data.train


@pytest.fixture
def run_teachers(teacher: Backbone) -> RunTeachers:
    options = EngineOptions(teacher_precision="bf16")
    return RunTeachers(frozen_copy(teacher, options, torch.randn(4, 3, 16, 16)))


def reader(
    table: TeacherTable, train: TrainingSet, run_teachers: RunTeachers, epoch: int = 0, step: int = 0
) -> TableReader:
    chunks = Chunks(train=train, num_batches=1)
    return TableReader(
        TableFiller(table, chunks, train.order(0, epoch), reads=WISHES, run_teachers=run_teachers), step
    )


def test_every_view_has_a_number_of_its_own(train: TrainingSet) -> None:
    orders = [train.order(seed, 0) for seed in range(30)]
    seen: dict[int, Tensor] = {}
    for order in orders:
        for view, image in zip(
            train.views(order).tolist(), train.gather(order, slice(None)).images, strict=True
        ):
            assert 0 <= view < train.num_views == 40 * 162
            assert torch.equal(seen.setdefault(view, image), image)
    assert len({image.numpy().tobytes() for image in seen.values()}) == len(seen)


def test_what_it_serves_has_the_bits_and_the_layout_of_what_the_teacher_says(
    train: TrainingSet, run_teachers: RunTeachers
) -> None:
    table = TeacherTable(train.num_views, PLENTY)
    for epoch in (0, 1, 0):
        order, serve = train.order(0, epoch), reader(table, train, run_teachers, epoch)
        for step in (0, 1):
            served = serve.outputs(step)
            assert served is not None
            (ours,), (theirs,) = served, run_teachers(train.batch(order, step).images)
            for left, right in zip(
                (ours.logits, *ours.taps.values()), (theirs.logits, *theirs.taps.values()), strict=True
            ):
                assert left is not None
                assert right is not None
                assert left.dtype is right.dtype
                assert left.stride() == right.stride()
                assert torch.equal(left, right)
        assert serve.outputs(2) is None  # eight images are no whole batch


def test_a_view_is_computed_once_and_in_whole_batches(train: TrainingSet, run_teachers: RunTeachers) -> None:
    table = TeacherTable(train.num_views, PLENTY)
    for _ in range(2):
        serve = reader(table, train, run_teachers)
        for step in (0, 1, 2):
            serve.outputs(step)
    assert run_teachers.batches == [16, 16]
    pooled, stage2, averaged = 4 * 64, 2 * 32 * 8 * 8, 4 * 32 * 3 * 4
    assert table.num_bytes == 32 * (4 * 4 + pooled + stage2 + averaged)


def test_after_a_resume_only_the_steps_to_come_are_computed(
    train: TrainingSet, run_teachers: RunTeachers
) -> None:
    serve = reader(TeacherTable(train.num_views, PLENTY), train, run_teachers, step=1)
    assert serve.outputs(1) is not None
    assert run_teachers.batches == [16]


def test_unknown_views_of_later_steps_fill_a_batch(train: TrainingSet, run_teachers: RunTeachers) -> None:
    table = TeacherTable(train.num_views, PLENTY)
    order = train.order(0, 0)
    known = torch.arange(4)  # of the first batch: twelve views of it are new, and sixteen of the second
    table.write(
        [*outputs_of(WISHES)], train.views(order)[known], run_teachers(train.gather(order, known).images)
    )
    run_teachers.batches.clear()
    serve = reader(table, train, run_teachers)
    assert serve.outputs(0) is not None
    assert run_teachers.batches == [16]
    assert serve.outputs(1) is not None
    assert run_teachers.batches == [16, 16]


def test_a_full_table_serves_what_it_knows(train: TrainingSet, run_teachers: RunTeachers) -> None:
    row_bytes = 4 * 4 + 4 * 64 + 2 * 32 * 8 * 8 + 4 * 32 * 3 * 4
    table = TeacherTable(train.num_views, 20 * row_bytes)
    serve = reader(table, train, run_teachers)
    assert serve.outputs(0) is not None
    assert serve.outputs(1) is None
    assert serve.outputs(1) is None
    assert run_teachers.batches == [16]  # what there is no room for is not tried
    assert table.num_bytes == 16 * row_bytes
    assert reader(table, train, run_teachers).outputs(0) is not None


def test_gangs_that_read_different_outputs_share_what_both_read(
    train: TrainingSet, run_teachers: RunTeachers
) -> None:
    table = TeacherTable(train.num_views, PLENTY)
    reader(table, train, run_teachers).outputs(0)
    logits = (TeacherReads(taps=(), logits=True),)
    assert not table.unknown(logits, train.views(train.order(0, 0))[:16]).any()
    assert table.unknown((TeacherReads(taps=("stage1",), logits=True),), torch.arange(3)).all()


def test_a_teacher_that_looks_at_its_neighbours_gets_no_table(train: TrainingSet, teacher: Backbone) -> None:
    run_teachers = RunTeachers(teacher)
    assert rows_are_independent(train, WISHES, run_teachers)
    teacher.train()  # batch norm by the batch's own statistics
    assert not rows_are_independent(train, WISHES, run_teachers)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.extended
def test_a_gang_with_a_table_ends_as_one_without(
    make_member: MakeMember,
    make_gang: MakeGang,
    teacher: Backbone,
    data: TrainingData,
    record: type,
    precision: Literal["fp32", "bf16"],
    assert_same_end: Check,
) -> None:
    images = next(data.test.images())
    frozen = frozen_copy(teacher, EngineOptions(teacher_precision=precision), images)
    table = TeacherTable(data.train.num_views, PLENTY)
    ends = {}
    for folder, kept in (("without", None), ("with", table), ("again", table)):
        members = [make_member(method, folder=folder) for method in METHODS]
        assert fit(make_gang(*members, teachers=(frozen,), table=kept), record())
        ends[folder] = members
    for folder in ("with", "again"):
        for kept, plain in zip(ends[folder], ends["without"], strict=True):
            assert_same_end(kept, plain)
    assert table.num_bytes > 0
