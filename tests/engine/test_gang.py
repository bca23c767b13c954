from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.trainer import fit
from kdctl.protocols.backbone import Backbone
from kdctl.recipe.engine_options import EngineOptions
from kdctl.records import EpochResult

HOPELESS = {"name": "sgd", "learning_rate": 1e30}
METHODS = ("ce", {"name": "kd", "temperature": 3.0}, "simkd")

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]
DropTimes = Callable[[list[EpochResult]], list[EpochResult]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.extended
def test_a_gang_gives_every_member_what_it_gets_alone(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    precision: Literal["fp32", "bf16"],
    assert_same_end: Check,
    without_times: DropTimes,
) -> None:
    together, alone = record(), record()
    compute = Compute(device=torch.device("cpu"), options=EngineOptions(student_precision=precision))
    gang = make_gang(*(make_member(method, folder="gang") for method in METHODS), compute=compute)
    assert fit(gang, together)
    for member, method in zip(gang.members, METHODS, strict=True):
        solo = make_member(method, folder="solo")
        assert fit(make_gang(solo, compute=compute), alone)
        assert_same_end(member, solo)
        assert without_times(together.results[member.key]) == without_times(alone.results[solo.key])
        files = sorted(path.name for path in member.folder.iterdir())
        assert files == ["best-test.pt", "best-val.pt", "last.pt"]
        for name in files:
            assert (member.folder / name).read_bytes() == (solo.folder / name).read_bytes()


@pytest.mark.extended
def test_members_whose_maps_differ_in_size_get_the_teachers_at_theirs(
    make_member: MakeMember, make_gang: MakeGang, record: type, assert_same_end: Check
) -> None:
    students = {"resnet8": ("stage3",), "mobilenetv2": ("stage3@1x1",)}
    compute = Compute(device=torch.device("cpu"), options=EngineOptions(teacher_precision="bf16"))
    gang = make_gang(
        *(make_member("simkd", folder="gang", student=student) for student in students), compute=compute
    )
    assert gang.reads()[0].taps == ("stage3", "stage3@1x1")
    assert fit(gang, record())
    for member, (student, taps) in zip(gang.members, students.items(), strict=True):
        solo = make_gang(make_member("simkd", folder="solo", student=student), compute=compute)
        assert solo.reads()[0].taps == taps
        assert fit(solo, record())
        assert_same_end(member, solo.members[0])


def test_a_diverged_member_leaves_and_the_others_do_not_notice(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    assert_same_end: Check,
    without_times: DropTimes,
) -> None:
    alone, together = record(), record()
    solo = make_member("kd", folder="solo")
    fit(make_gang(solo), alone)

    bad = make_member("ce", folder="gang", optimizer=HOPELESS)
    good = make_member("kd", folder="gang")
    assert fit(make_gang(bad, good), together)
    assert bad.diverged == "the loss 'task' is not finite in epoch 1"
    assert bad.epoch == 0
    assert bad.key not in together.results
    assert not good.diverged
    assert_same_end(solo, good)
    assert without_times(alone.results[solo.key]) == without_times(together.results[good.key])


def test_a_gang_whose_members_all_diverged_is_done(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    members = [make_member(method, optimizer=HOPELESS) for method in ("ce", "kd")]
    observer = record()
    assert fit(make_gang(*members), observer)
    assert all(member.diverged for member in members)
    assert observer.num_steps == 3


def test_a_gang_ends_when_others_have_taken_all_its_members_over(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    observer = record()

    def take(gang: Gang) -> None:
        for member in gang.members:
            member.left = observer.num_steps == 2

    members = [make_member(method, folder=method) for method in ("ce", "kd")]
    observer.at_step = take
    assert fit(make_gang(*members), observer)
    assert [member.step for member in members] == [2, 2]
    assert observer.results == {}


def test_the_teacher_runs_once_a_step_however_large_the_gang(
    make_member: MakeMember, make_gang: MakeGang, record: type, teacher: Backbone
) -> None:
    calls: list[int] = []
    teacher.links["stem"].register_forward_pre_hook(lambda *_: calls.append(1))
    observer = record()
    fit(make_gang(make_member("kd"), make_member("simkd")), observer)
    assert len(calls) == observer.num_steps


def test_a_teacher_runs_as_far_as_it_is_read_and_never_for_gradients(
    make_member: MakeMember, make_gang: MakeGang, teacher: Backbone
) -> None:
    teacher.requires_grad_()
    images = torch.zeros(2, 3, 16, 16)
    (alone,) = make_gang(make_member("simkd")).teacher_outputs(images)
    assert alone.logits is None
    assert list(alone.taps) == ["stage3"]
    (shared,) = make_gang(make_member("simkd"), make_member("kd")).teacher_outputs(images)
    assert shared.logits is not None
    assert not shared.logits.requires_grad


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"schedule": {"name": "constant", "epochs": 4}}],
    ids=["seed", "length"],
)
def test_members_that_cannot_train_in_lockstep_are_refused(
    make_member: MakeMember, make_gang: MakeGang, record: type, other: dict[str, Any]
) -> None:
    gang = make_gang(make_member("ce"), make_member("kd", **other))
    with pytest.raises(ValueError, match="same step"):
        fit(gang, record())
