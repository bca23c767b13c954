"""Replayed steps against plain ones, bit for bit, on tapes that repeat operations as CUDA graphs do."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang
from kdctl.engine.graphs import RECORDED, GraphedSteps
from kdctl.engine.member import Member
from kdctl.engine.steps import EagerSteps
from kdctl.engine.trainer import choose_steps, fit
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Distiller, Losses, Step
from kdctl.recipe.engine_options import EngineOptions
from kdctl.records import EpochResult

METHODS = ("ce", {"name": "kd", "temperature": 3.0}, "simkd")
SGD = {"name": "sgd", "learning_rate": 0.05}
ADAMW = {"name": "adamw", "learning_rate": 0.003}

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]
DropTimes = Callable[[list[EpochResult]], list[EpochResult]]


def looking_ahead(num_batches: int) -> Compute:
    return Compute(device=torch.device("cpu"), options=EngineOptions(teacher_lookahead=num_batches))


def odd(member: Member, method: type[Distiller]) -> Member:
    return dataclasses.replace(member, distiller=method(None, member.distiller.setup))


@pytest.mark.parametrize(
    ("optimizer", "lookahead"), [(SGD, 1), (ADAMW, 1), (SGD, 2), (SGD, 9)], ids=["sgd", "adamw", "two", "all"]
)
@pytest.mark.extended
def test_replayed_steps_give_the_bits_of_plain_ones(
    make_recordable: MakeMember,
    make_gang: MakeGang,
    record: type,
    tape_streams: type,
    optimizer: dict[str, Any],
    lookahead: int,
    assert_same_end: Check,
    without_times: DropTimes,
) -> None:
    plain, replayed = record(), record()
    gangs = [
        make_gang(
            *(make_recordable(method, folder=folder, optimizer=optimizer) for method in METHODS),
            compute=looking_ahead(lookahead),
        )
        for folder in ("plain", "replayed")
    ]
    assert fit(gangs[0], plain)
    steps = GraphedSteps(gangs[1], tape_streams(), required=True)
    assert fit(gangs[1], replayed, steps=steps)
    for left, right in zip(gangs[0].members, gangs[1].members, strict=True):
        assert_same_end(left, right)
        assert without_times(plain.results[left.key]) == without_times(replayed.results[right.key])
        assert (left.folder / "last.pt").read_bytes() == (right.folder / "last.pt").read_bytes()
        assert steps.executed_as(right) == RECORDED
    assert not any(entry.step._before for entry in steps._entries.values()), "weights are kept twice"


@pytest.mark.extended
def test_a_gang_of_replayed_members_gives_each_what_it_gets_alone(
    make_recordable: MakeMember, make_gang: MakeGang, record: type, tape_streams: type, assert_same_end: Check
) -> None:
    gang = make_gang(*(make_recordable(method, folder="gang") for method in METHODS))
    fit(gang, record(), steps=GraphedSteps(gang, tape_streams()))
    for member, method in zip(gang.members, METHODS, strict=True):
        solo = make_gang(make_recordable(method, folder="solo"))
        fit(solo, record(), steps=GraphedSteps(solo, tape_streams()))
        assert_same_end(member, solo.members[0])


@pytest.mark.parametrize(
    ("lookahead", "ends_replayed"),
    [
        (1, True),
        (2, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_replayed_run_may_stop_anywhere_and_go_on_plainly_or_replayed(
    make_recordable: MakeMember,
    make_gang: MakeGang,
    record: type,
    tape_streams: type,
    assert_same_end: Check,
    ends_replayed: bool,
    lookahead: int,
) -> None:
    make_gang = functools.partial(make_gang, compute=looking_ahead(lookahead))
    whole = make_gang(make_recordable("kd", folder="whole"))
    fit(whole, record())
    parts = record()
    for at_step in (0, 2, 3, 5):  # one run, stopped so often
        gang = make_gang(make_recordable("kd", folder="parts"))
        stop = lambda: parts.num_steps == at_step  # noqa: B023, E731 - used within the turn
        assert not fit(gang, parts, stop=stop, steps=GraphedSteps(gang, tape_streams()))
    last = make_gang(make_recordable("kd", folder="parts"))
    assert fit(last, parts, steps=GraphedSteps(last, tape_streams()) if ends_replayed else EagerSteps(last))
    assert_same_end(whole.members[0], last.members[0])


class Drawing(Distiller):
    """A method that draws random targets, and keeps a moving average in a buffer."""

    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(config, setup)
        self.register_buffer("mean", torch.zeros(setup.num_classes))

    def losses(self, step: Step) -> Losses:
        logits = step.student.require_logits()
        target = torch.rand(logits.shape, generator=self.setup.rng) + step.progress
        return Losses(task=None, transfer={"odd": functional.mse_loss(logits, target)}, logits=logits)

    @torch.no_grad()
    def after_update(self, step: Step) -> None:
        self.mean.lerp_(step.student.require_logits().mean(dim=0), 0.1 * step.progress + 0.1)


class Counting(Drawing):
    """A method that counts in Python, which a replay does not run."""

    graph_safe = False

    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(config, setup)
        self.calls = 0

    def after_update(self, step: Step) -> None:
        self.calls += 1
        super().after_update(step)


class Reading(Drawing):
    """A method that reads its losses back, although it should not."""

    def losses(self, step: Step) -> Losses:
        losses = super().losses(step)
        assert losses.total().item() == losses.total().item()
        return losses


@pytest.mark.extended
def test_random_numbers_progress_and_buffers_are_those_of_plain_steps(
    make_recordable: MakeMember, make_gang: MakeGang, record: type, tape_streams: type, assert_same_end: Check
) -> None:
    gangs = [make_gang(odd(make_recordable("ce", folder=name), Drawing)) for name in ("a", "b")]
    fit(gangs[0], record())
    fit(gangs[1], record(), steps=GraphedSteps(gangs[1], tape_streams(), required=True))
    assert gangs[0].members[0].distiller.mean.any()
    assert_same_end(gangs[0].members[0], gangs[1].members[0])


@pytest.mark.parametrize(
    ("method", "reason"),
    [(Counting, "the method says that its steps cannot be recorded"), (Reading, "a step cannot be recorded")],
)
@pytest.mark.extended
def test_a_member_that_cannot_be_recorded_steps_plainly_beside_others_that_are(
    make_recordable: MakeMember,
    make_gang: MakeGang,
    record: type,
    tape_streams: type,
    assert_same_end: Check,
    caplog: pytest.LogCaptureFixture,
    method: type[Distiller],
    reason: str,
) -> None:
    plain, mixed = (
        make_gang(
            odd(make_recordable("ce", folder=folder), method),
            make_recordable("kd", folder=folder),
        )
        for folder in ("plain", "mixed")
    )
    fit(plain, record())
    steps = GraphedSteps(mixed, tape_streams())
    with caplog.at_level(logging.WARNING):
        fit(mixed, record(), steps=steps)
    for left, right in zip(plain.members, mixed.members, strict=True):
        assert_same_end(left, right)
    assert steps.executed_as(mixed.members[0]).startswith(f"eager: {reason}")
    assert steps.executed_as(mixed.members[1]) == RECORDED
    assert len([message for message in caplog.messages if reason in message]) == 1


def test_where_records_are_required_a_member_without_is_an_error(
    make_recordable: MakeMember, make_gang: MakeGang, record: type, tape_streams: type
) -> None:
    gang = make_gang(odd(make_recordable("ce"), Reading))
    with pytest.raises(KdctlError, match=r"a step cannot be recorded \(aten::_local_scalar_dense"):
        fit(gang, record(), steps=GraphedSteps(gang, tape_streams(), required=True))


@pytest.mark.extended
def test_a_teacher_that_cannot_be_recorded_makes_the_gang_step_plainly(
    make_recordable: MakeMember,
    make_gang: MakeGang,
    record: type,
    tape_streams: type,
    teacher: Backbone,
    assert_same_end: Check,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = make_gang(make_recordable("kd", folder="plain"))
    fit(plain, record())
    teacher.links["stem"].register_forward_hook(lambda _module, _inputs, output: output.sum().item() and None)
    gang = make_gang(make_recordable("kd", folder="gang"))
    with caplog.at_level(logging.WARNING):
        assert fit(gang, record(), steps=GraphedSteps(gang, tape_streams()))
    assert_same_end(plain.members[0], gang.members[0])
    assert sum("batch and teachers cannot be recorded" in message for message in caplog.messages) == 1


@pytest.mark.extended
def test_a_member_that_leaves_is_not_replayed_and_the_others_do_not_notice(
    make_recordable: MakeMember, make_gang: MakeGang, record: type, tape_streams: type, assert_same_end: Check
) -> None:
    solo = make_gang(make_recordable("kd", folder="solo"))
    fit(solo, record())
    hopeless = make_recordable("ce", optimizer={"name": "sgd", "learning_rate": 1e30})
    taken = make_recordable("simkd")
    good = make_recordable("kd")

    def copy_from(gang: Gang) -> None:
        taken.left = observer.num_steps >= 4

    observer = record(at_step=copy_from)
    gang = make_gang(hopeless, taken, good)
    assert fit(gang, observer, steps=GraphedSteps(gang, tape_streams()))
    assert hopeless.diverged
    assert (taken.epoch, taken.step) == (1, 1)
    assert_same_end(solo.members[0], good)


@pytest.mark.extended
def test_each_phase_is_recorded_anew(
    make_recordable: MakeMember, make_gang: MakeGang, record: type, tape_streams: type, assert_same_end: Check
) -> None:
    method = {"name": "fitnet", "hint_share": 0.5}
    length = {"schedule": {"name": "cosine", "epochs": 4}}
    plain, replayed = (
        make_gang(
            make_recordable(method, folder=folder, **length),
            make_recordable("kd", folder=folder, **length),
        )
        for folder in ("plain", "replayed")
    )
    fit(plain, record())
    streams = tape_streams()
    fit(replayed, record(), steps=GraphedSteps(replayed, streams, required=True))
    for left, right in zip(plain.members, replayed.members, strict=True):
        assert_same_end(left, right)
    # Batch and teachers, FitNet, KD: two sizes of batch in two phases, and in each phase two exams.
    assert [stream.num_records for stream in streams.streams] == [4, 6, 8, 8]


@pytest.mark.extended
def test_the_members_of_a_benchmark_may_be_the_same_run(
    make_recordable: MakeMember, make_gang: MakeGang, record: type, tape_streams: type, assert_same_end: Check
) -> None:
    twins = [make_recordable("kd") for _ in range(2)]
    gang = make_gang(*twins)
    fit(gang, record(), steps=GraphedSteps(gang, tape_streams()))
    assert_same_end(*twins)


@pytest.mark.extended
def test_a_cpu_has_no_graphs(make_member: MakeMember, make_gang: MakeGang) -> None:
    gang = make_gang(make_member("ce"))
    assert isinstance(choose_steps(gang), EagerSteps)
    assert choose_steps(gang).executed_as(gang.members[0]) == "eager"
    gang.graphs = "on"
    with pytest.raises(KdctlError, match="--graphs on needs a GPU, and the device is cpu"):
        choose_steps(gang)
