from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from kdctl.engine.batch_counters import BatchCounters
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.resume import state_of
from kdctl.engine.trainer import fit

IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(3).eval()
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=None), frozen)


def counts(model: nn.Module) -> list[int]:
    return [int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]


def test_layers_that_rest_compute_and_count_as_ever(model: nn.Sequential) -> None:
    plain = copy.deepcopy(model)
    counters = BatchCounters(model)
    for _ in range(3):
        expected = plain(IMAGES)
        with counters.resting():
            assert torch.equal(model(IMAGES), expected)
        counters.count()
    assert counts(model) == [0, 3, 0]  # plain means need their counter
    counters.flush()
    counters.flush()
    assert counts(model) == counts(plain) == [3, 3, 0]
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_counters_come_back_after_an_error(model: nn.Sequential) -> None:
    def fail() -> None:
        with BatchCounters(model).resting():
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert counts(model) == [0, 0, 0]


def test_checkpoints_and_states_say_how_many_batches_were_seen(
    make_member: Callable[..., Member], make_gang: Callable[..., Gang], record: type
) -> None:
    member = make_member("kd")
    stops = iter([False] * 4)
    assert not fit(make_gang(member), record(), stop=lambda: next(stops, True))
    saved = {
        int(value)
        for name, value in state_of(member)["distiller"].items()
        if name.endswith("num_batches_tracked")
    }
    assert saved == {4}
    assert fit(make_gang(member), record())
    assert set(counts(member.distiller)) == {9}  # three epochs of three steps
