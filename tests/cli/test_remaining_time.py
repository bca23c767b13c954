from __future__ import annotations

import pytest

from kdctl.cli.remaining_time import RemainingTime


class Time:
    """A clock that only moves when told."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_the_time_left_follows_from_the_pace_so_far() -> None:
    time = Time()
    remaining = RemainingTime(now=time)
    remaining.expect({"a": 10, "b": 10}, later=0)
    assert remaining.seconds_left() is None
    remaining.start("a")
    assert remaining.seconds_left_of("a") is None
    time.seconds += 8.0
    remaining.move("a", 0.5)
    remaining.move("a", 4.0)
    assert remaining.seconds_left_of("a") == pytest.approx(12.0)
    assert remaining.seconds_left() == pytest.approx(32.0)
    assert remaining.share() == pytest.approx(0.2)
    assert remaining.runs() == (0, 2)


def test_epochs_of_an_earlier_start_do_not_count_as_pace() -> None:
    time = Time()
    remaining = RemainingTime(now=time)
    remaining.expect({"a": 10}, later=0)
    remaining.start("a")
    remaining.move("a", 8.0)
    time.seconds += 3.0
    remaining.move("a", 9.0)
    assert remaining.seconds_left() == pytest.approx(3.0)


def test_members_of_a_gang_share_the_time() -> None:
    time = Time()
    remaining = RemainingTime(now=time)
    remaining.expect({"a": 4, "b": 4}, later=0)
    for key in ("a", "b"):
        remaining.start(key)
        remaining.move(key, 0.1)
    time.seconds += 6.0
    for key in ("a", "b"):
        remaining.move(key, 2.0)
    assert remaining.seconds_left() == pytest.approx(6.0)


def test_a_run_that_ended_early_takes_no_more_time() -> None:
    remaining = RemainingTime(now=Time())
    remaining.expect({"a": 4, "b": 4}, later=0)
    remaining.start("a")
    remaining.close("a")
    assert remaining.share() == pytest.approx(0.5)
    assert remaining.runs() == (1, 2)


def test_a_search_counts_on_what_it_will_choose() -> None:
    remaining = RemainingTime(now=Time())
    remaining.expect({"a": 4}, later=3)
    remaining.close("a")
    assert remaining.share() == pytest.approx(0.25)
    remaining.expect({"b": 4}, later=2)
    assert remaining.runs() == (1, 4)
    assert remaining.share() == pytest.approx(0.25)


def test_an_epoch_of_a_teacher_may_take_as_long_as_many_of_its_students() -> None:
    time = Time()
    remaining = RemainingTime(now=time)
    remaining.weigh({"teacher": 10.0, "student": 1.0, "other": 1.0})
    remaining.expect({"teacher": 4, "student": 5}, later=1)
    remaining.start("teacher")
    time.seconds += 20.0  # twice as long as estimated
    remaining.move("teacher", 1.0)
    assert remaining.seconds_left() == pytest.approx(2 * (3 * 10 + 5 + (40 + 5) / 2))
    assert remaining.share() == pytest.approx(10 / (45 + 22.5))
    remaining.expect({"unknown": 5}, later=0)
    assert remaining.seconds_left() == pytest.approx(2 * (3 * 10 + 5 + 5))
