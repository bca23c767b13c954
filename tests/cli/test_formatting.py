from __future__ import annotations

import math

import pytest

from kdctl.cli.formatting import duration, flop, nats, outcome, pace, percent, standing
from kdctl.records import RunState
from kdctl.text import plural


def test_a_run_that_does_not_go_on_for_now_is_worded_by_its_reason() -> None:
    assert outcome(RunState.INTERRUPTED, None, "stopped in epoch 2") == "stopped in epoch 2"
    assert outcome(RunState.INTERRUPTED, None, "") == "interrupted"
    assert outcome(RunState.PRUNED, None, "it trails") == "pruned: it trails"


def test_how_far_runs_are_names_what_there_is() -> None:
    assert standing(16, to_do=16) == "16 runs: 0 done, 16 to do"
    assert (
        standing(16, to_do=1, dropped=5, failed=2)
        == "16 runs: 8 done, 5 dropped, 2 failed (--retry-failed), 1 to do"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7_800, "2 h 10 min"),
        (200_000, "2 d 07 h"),
    ],
)
def test_times_are_worded_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        (0, "0 FLOP"),
        (999, "999 FLOP"),
        (4.94e11, "494 GFLOP"),
        (14.23e15, "14.2 PFLOP"),
        (4.3e18, "4.3 EFLOP"),
        (2e22, "2e+04 EFLOP"),
    ],
)
def test_operations_have_three_digits_and_a_unit(operations: float, words: str) -> None:
    assert flop(operations) == words


def test_a_slow_pace_is_not_none() -> None:
    assert [pace(rate) for rate in (0.42, 9.96, 1303.4)] == ["0.4 images/s", "10 images/s", "1303 images/s"]


def test_a_loss_beyond_all_measure_has_few_digits() -> None:
    assert [nats(loss) for loss in (0.5, 9999.0, 7678069011644416.0, math.inf)] == [
        "0.5000",
        "9999.0000",
        "7.678e+15",
        "inf",
    ]


def test_things_are_counted() -> None:
    assert [plural(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


def test_what_is_not_known_is_a_dash() -> None:
    assert percent(None, " %") == "—"
    assert percent(98.765, " %") == "98.77 %"
