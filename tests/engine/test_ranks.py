"""Who a process is among those that train a run together."""

from __future__ import annotations

import pytest

from kdctl.engine.ranks import Ranks, is_follower, ranks_told, watching
from kdctl.errors import UsageError
from kdctl.machine_errors import MachineError

PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, Ranks(rank=0, count=1)),
        ({"RANK": "x"}, Ranks(rank=0, count=1)),  # torchrun never sets it alone
        ({"WORLD_SIZE": "1"}, Ranks(rank=0, count=1)),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", **PLACE}, Ranks(rank=3, count=4)),
        ({"WORLD_SIZE": "4", "RANK": "0", **PLACE}, Ranks(rank=0, count=4)),
    ],
)
def test_a_process_is_who_torchrun_says(environment: dict[str, str], ranks: Ranks) -> None:
    assert ranks_told(environment) == ranks
    assert is_follower(environment) == (ranks.rank > 0)


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "y", "RANK": "x"},
        {"WORLD_SIZE": "", "RANK": "0"},
        {"WORLD_SIZE": "0", "RANK": "0"},
        {"WORLD_SIZE": "-2", "RANK": "0", **PLACE},
        {"WORLD_SIZE": "2", "RANK": "2", **PLACE},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "first", **PLACE},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"},
        {"WORLD_SIZE": "9" * 5000, "RANK": "0", **PLACE},
    ],
)
def test_variables_that_were_left_over_are_named(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="not as torchrun sets them") as error:
        is_follower(environment)
    assert "unset WORLD_SIZE RANK" in error.value.hint


def test_a_process_that_is_gone_is_told_in_one_sentence() -> None:
    gloo = "[/gloo/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:13194. Check the logs."
    with pytest.raises(MachineError) as caught, watching(Ranks(rank=0, count=2)):
        raise RuntimeError(gloo + "\nException raised from ...")
    assert caught.value.problem.endswith("is gone (Connection closed by peer [127.0.0.1]:13194).")
