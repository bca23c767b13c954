from __future__ import annotations

import pytest

from kdctl.cli.clock import Clock


class Time:
    """A clock that only moves when told."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_the_time_left_follows_from_the_pace_so_far() -> None:
    time = Time()
    clock = Clock(now=time)
    clock.expect({"a": 10, "b": 10}, later=0)
    assert clock.seconds_left() is None
    clock.start("a")
    assert clock.seconds_left_of("a") is None
    time.seconds += 8.0
    clock.move("a", 0.5)
    clock.move("a", 4.0)
    assert clock.seconds_left_of("a") == pytest.approx(12.0)
    assert clock.seconds_left() == pytest.approx(32.0)
    assert clock.share() == pytest.approx(0.2)
    assert clock.runs() == (0, 2)


def test_epochs_of_an_earlier_start_do_not_count_as_pace() -> None:
    time = Time()
    clock = Clock(now=time)
    clock.expect({"a": 10}, later=0)
    clock.start("a")
    clock.move("a", 8.0)
    time.seconds += 3.0
    clock.move("a", 9.0)
    assert clock.seconds_left() == pytest.approx(3.0)


def test_members_of_a_gang_share_the_time() -> None:
    time = Time()
    clock = Clock(now=time)
    clock.expect({"a": 4, "b": 4}, later=0)
    for key in ("a", "b"):
        clock.start(key)
        clock.move(key, 0.1)
    time.seconds += 6.0
    for key in ("a", "b"):
        clock.move(key, 2.0)
    assert clock.seconds_left() == pytest.approx(6.0)


def test_a_run_that_ended_early_takes_no_more_time() -> None:
    clock = Clock(now=Time())
    clock.expect({"a": 4, "b": 4}, later=0)
    clock.start("a")
    clock.close("a")
    assert clock.share() == pytest.approx(0.5)
    assert clock.runs() == (1, 2)


def test_a_search_counts_on_what_it_will_choose() -> None:
    clock = Clock(now=Time())
    clock.expect({"a": 4}, later=3)
    clock.close("a")
    assert clock.share() == pytest.approx(0.25)
    clock.expect({"b": 4}, later=2)
    assert clock.runs() == (1, 4)
    assert clock.share() == pytest.approx(0.25)
