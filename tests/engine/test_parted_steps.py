from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdctl.assembly.assemble import build_student
from kdctl.assembly.data import Sizes
from kdctl.engine import parted_steps
from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.member import Member
from kdctl.engine.parted_steps import PartedSteps, bounds, require_parts
from kdctl.engine.ranks import Ranks
from kdctl.engine.trainer import choose_steps, fit
from kdctl.errors import KdctlError, UsageError
from kdctl.machine_errors import MachineError
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.plan import RunPlan

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]

HALVES = {"batch_parts": 2}
RATE = 0.1


def parted(num_parts: int = 2) -> Compute:
    return Compute(device=torch.device("cpu"), options=EngineOptions(batch_parts=num_parts))


def test_parts_cover_a_batch_and_differ_by_one_image_at_most() -> None:
    for size in (4, 5, 16, 17, 31):
        for num_parts in (1, 2, 3):
            parts = bounds(size, num_parts)
            assert [place for part in parts for place in range(size)[part]] == list(range(size))
            assert max(p.stop - p.start for p in parts) - min(p.stop - p.start for p in parts) <= 1


def test_a_step_in_parts_is_the_mean_of_its_parts(
    make_member: MakeMember, make_gang: MakeGang, make_plan: Callable[..., RunPlan], data: TrainingData
) -> None:
    """Against plain code: each half has batch norms of its own, gradients and statistics are averaged."""
    plain_sgd = {"name": "sgd", "learning_rate": RATE, "momentum": 0.0, "weight_decay": 0.0}
    member = make_member("ce", engine=HALVES, optimizer=plain_sgd)
    steps = PartedSteps(make_gang(member, compute=parted()))
    member.distiller.train()
    steps.begin_epoch()
    steps.take()

    student = build_student(make_plan("ce"), Sizes(num_classes=4, input_size=16))
    student = student.to(memory_format=torch.channels_last).train()
    batch = data.train.batch(data.train.order(0, 0), 0)
    start = {name: value.clone() for name, value in student.state_dict().items()}
    ends: list[dict[str, Tensor]] = []
    for half in (slice(0, 8), slice(8, 16)):
        student.load_state_dict(start)
        student.zero_grad()
        functional.cross_entropy(student(batch.images[half]), batch.labels[half]).backward()  # type: ignore[index]
        gradients = {name: p.grad for name, p in student.named_parameters()}
        moved = {name: start[name] - RATE * grad for name, grad in gradients.items() if grad is not None}
        ends.append({**student.state_dict(), **moved})
        ends[-1] = {name: value.clone() for name, value in ends[-1].items()}
    for name, value in member.distiller.student.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (ends[0][name] + ends[1][name]) / 2)


def test_equal_gradients_of_parts_are_those_of_the_whole_batch_where_nothing_depends_on_it(
    make_member: MakeMember, make_gang: MakeGang
) -> None:
    """In eval mode batch norms see no batch, so parts change rounding only."""
    gradients: list[list[Tensor]] = []
    for num_parts in (1, 2, 4):
        member = make_member("kd", folder=str(num_parts), optimizer={"name": "sgd", "learning_rate": 0.01})
        gang = make_gang(member, compute=parted(num_parts))
        steps = choose_steps(gang)
        steps.begin_epoch()
        member.distiller.eval()
        steps.take()
        gradients.append([p.grad for p in member.distiller.parameters() if p.grad is not None])
    for parts in gradients[1:]:
        for grad, whole in zip(parts, gradients[0], strict=True):
            torch.testing.assert_close(grad, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["ce", "dist", "simkd"])
@pytest.mark.extended
def test_a_run_in_parts_goes_on_bit_for_bit_and_is_in_a_gang_as_alone(
    make_member: MakeMember, make_gang: MakeGang, record: type, assert_same_end: Check, method: str
) -> None:
    def members(folder: str, *methods: str) -> list[Member]:
        return [make_member(name, folder=folder, engine=HALVES) for name in methods]

    whole = make_gang(*members("whole", method, "kd"), compute=parted())
    assert fit(whole, record())
    observer = record()
    stop = lambda: observer.num_steps == 4  # noqa: E731
    assert not fit(make_gang(*members("stopped", method), compute=parted()), observer, stop=stop)
    resumed = make_gang(*members("stopped", method), compute=parted())
    assert resumed.members[0].step == 1
    assert fit(resumed, record())
    assert_same_end(whole.members[0], resumed.members[0])
    assert whole.members[0].execution == "eager, batches in 2 parts"


def test_a_last_batch_that_is_too_small_for_all_parts_is_skipped(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    observer = record()
    member = make_member("ce", engine={"batch_parts": 8}, schedule={"name": "constant", "epochs": 1})
    assert fit(make_gang(member, compute=parted(8)), observer)  # 16, 16, and 8 images
    assert member.epoch == 1
    assert observer.num_steps == 3
    assert member.distiller.state_dict()["student.links.stem.1.num_batches_tracked"] == 2


@pytest.mark.parametrize(
    ("method", "num_parts", "why"),
    [
        ("ce", 3, "does not divide data.batch_size = 16"),
        ("ce", 16, "does not divide data.batch_size = 16"),
        ("crd", 2, "keeps something from step to step"),
    ],
)
def test_what_parts_would_change_is_refused(
    make_member: MakeMember, method: str, num_parts: int, why: str
) -> None:
    with pytest.raises(KdctlError, match=why) as caught:
        require_parts(make_member(method).distiller, num_parts, 16, 40)
    assert num_parts != 3 or "data.batch_size=15." in caught.value.hint
    require_parts(make_member(method, folder="whole").distiller, 1, 16, 40)


def test_parts_that_no_batch_ever_fills_are_refused(make_member: MakeMember) -> None:
    distiller = make_member("ce").distiller
    require_parts(distiller, 8, 16, 16)
    with pytest.raises(KdctlError, match="batch_parts = 8: 15 training images are too few"):
        require_parts(distiller, 8, 16, 15)


def test_steps_in_parts_are_not_recorded(make_member: MakeMember, make_gang: MakeGang) -> None:
    with pytest.raises(UsageError, match="taken in parts"):
        choose_steps(make_gang(make_member("ce"), compute=parted(), graphs="on"))


def test_a_process_that_is_lost_while_others_prepare_is_no_fault_of_the_run(
    make_member: MakeMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer")

    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lost)
    with pytest.raises(MachineError, match="another of the 2 processes that train this run is gone"):
        parted_steps._PartedWork(member=make_member("ce", engine=HALVES), ranks=Ranks(rank=0, count=2))
