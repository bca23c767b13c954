from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.assembly.assemble import require_average
from kdctl.engine.checkpoint import read_model
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.trainer import fit
from kdctl.errors import KdctlError
from kdctl.layers.moving_average import MovingAverage

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]

DECAY = 0.8
KEPT = {"average_decay": DECAY}


def statistics_of(model: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for name, value in model.named_buffers() if "running" in name]


def weights(member: Member) -> list[Tensor]:
    return [value.detach().clone() for value in member.distiller.inference_model().parameters()]


@pytest.mark.parametrize("method", ["ce", "simkd"])
def test_the_average_follows_what_is_shipped(
    make_member: MakeMember, make_gang: MakeGang, record: type, method: str
) -> None:
    member = make_member(method, engine=KEPT)
    expected = weights(member)
    num_updates = 0

    def follow(_gang: Gang) -> None:
        nonlocal num_updates
        num_updates += 1
        decay = min(1 - 1 / (num_updates + 1), DECAY)
        for place, latest in enumerate(weights(member)):
            expected[place] = decay * expected[place] + (1 - decay) * latest

    observer = record(at_step=follow)
    assert fit(make_gang(member), observer)
    average = member.distiller.shipped_average
    assert isinstance(average, MovingAverage)
    for own, value in zip(average.model.parameters(), expected, strict=True):
        torch.testing.assert_close(own, value)
    last = observer.results[member.key][-1]
    assert last.models["ema"].test.loss != last.test.loss
    saved = read_model(member.folder / "last.ema.pt").weights
    assert saved.keys() == read_model(member.folder / "last.pt").weights.keys()


@pytest.mark.parametrize("averages", [True, False])
def test_running_statistics_are_averaged_like_weights_or_those_of_the_last_step(
    make_member: MakeMember, make_gang: MakeGang, record: type, *, averages: bool
) -> None:
    member = make_member("ce", engine={**KEPT, "average_buffers": averages})
    expected, num_updates = statistics_of(member.distiller.inference_model()), 0

    def follow(_gang: Gang) -> None:
        nonlocal num_updates
        num_updates += 1
        decay = min(1 - 1 / (num_updates + 1), DECAY) if averages else 0.0
        for place, latest in enumerate(statistics_of(member.distiller.inference_model())):
            expected[place] = decay * expected[place] + (1 - decay) * latest

    assert fit(make_gang(member), record(at_step=follow))
    average = member.distiller.shipped_average
    assert isinstance(average, MovingAverage)
    for own, value in zip(statistics_of(average.model), expected, strict=True):
        torch.testing.assert_close(own, value)


def test_a_run_with_an_average_learns_what_one_without_learns(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    plain, averaged = make_member("kd", folder="plain"), make_member("kd", folder="averaged", engine=KEPT)
    for member in (plain, averaged):
        assert fit(make_gang(member), record())
    assert all(map(torch.equal, weights(plain), weights(averaged)))
    assert plain.distiller.all_models() == ()


@pytest.mark.extended
def test_an_average_goes_on_bit_for_bit(
    make_member: MakeMember, make_gang: MakeGang, record: type, assert_same_end: Check
) -> None:
    whole, observer = make_member("kd", folder="whole", engine=KEPT), record()
    assert fit(make_gang(whole, make_member("ce", folder="whole")), record())
    stop = lambda: observer.num_steps == 5  # noqa: E731
    assert not fit(make_gang(make_member("kd", engine=KEPT)), observer, stop=stop)
    resumed = make_member("kd", engine=KEPT)
    assert resumed.step == 2
    assert fit(make_gang(resumed), record())
    assert_same_end(whole, resumed)


def test_a_method_of_several_phases_keeps_no_average(make_member: MakeMember) -> None:
    distiller = make_member("ft").distiller
    require_average(distiller, 0.0)
    with pytest.raises(KdctlError, match="several phases"):
        require_average(distiller, DECAY)


@pytest.mark.extended
def test_the_file_of_an_average_does_not_depend_on_when_states_are_saved(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    seldom, often = (make_member("kd", folder=name, engine=KEPT) for name in ("seldom", "often"))
    assert fit(make_gang(seldom), record())
    gang = make_gang(often)
    gang.save_state_seconds = 0.0
    assert fit(gang, record())
    files = [(member.folder / "last.ema.pt").read_bytes() for member in (seldom, often)]
    assert files[0] == files[1]
