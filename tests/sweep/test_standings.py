from __future__ import annotations

import statistics

import pytest

from kdctl.sweep.standings import Standing, in_turn, outside, precise, share_of, trailing


def standing(*values: float, race: str = "", num_diverged: int = 0, rung: str = "") -> Standing:
    return Standing(race=race, values=values, num_diverged=num_diverged, rung=rung)


def test_who_trails_the_leader_by_more_than_the_margin_is_dropped_and_told_why() -> None:
    standings = {"a": standing(70, 72), "b": standing(69, 69), "c": standing(68.9, 69)}
    dropped = trailing(standings, margin=2.0, names={"a": "lr 0.1"})
    assert list(dropped) == ["c"]
    assert dropped["c"] == (
        "dropped after 2 seeds: its mean 68.95 % trails lr 0.1 (71.00 %) by 2.05 points, more than 2"
    )


def test_who_trails_by_just_the_margin_goes_on_whatever_the_last_bit_says() -> None:
    assert 64.01 - 63.01 > 1.0
    assert trailing({"a": standing(64.01), "b": standing(63.01)}, margin=1.0) == {}
    assert list(trailing({"a": standing(64.01), "b": standing(63.0)}, margin=1.0)) == ["b"]
    known = precise({"a": standing(70.1, 70.3)}, target=0.1, fewest=2)  # 0.10000000000000142
    assert list(known) == ["a"]


def test_the_leader_stays_whatever_the_margin() -> None:
    assert "a" not in trailing({"a": standing(50), "b": standing(10)}, margin=0.001)
    assert trailing({"a": standing(50), "b": standing(50)}, margin=0.001) == {}


def test_races_do_not_touch_each_other() -> None:
    standings = {"big": standing(90, race="big"), "small": standing(60, race="small")}
    assert trailing(standings, margin=1.0) == {}


def test_what_always_diverged_is_dropped_once_something_else_has_a_value() -> None:
    standings = {"a": standing(70), "b": standing(num_diverged=2), "c": standing()}
    dropped = trailing(standings, margin=50.0)
    assert dropped == {"b": "dropped after 2 seeds: all diverged"}
    assert trailing({"b": standing(num_diverged=2)}, margin=1.0) == {}


def test_a_single_divergence_does_not_drop_the_seeds_that_finished() -> None:
    assert trailing({"a": standing(70, 70), "b": standing(69.5, num_diverged=1)}, margin=1.0) == {}


def test_the_order_of_configurations_does_not_matter() -> None:
    standings = {"a": standing(70), "b": standing(60), "c": standing(75)}
    backwards = dict(reversed(list(standings.items())))
    assert trailing(standings, margin=3.0) == trailing(backwards, margin=3.0)


def test_who_is_not_among_the_best_of_a_rung_is_dropped_and_told_why() -> None:
    standings = {
        key: standing(value, rung="epoch 160 of seed 0")
        for key, value in zip("abcd", (40, 70, 60, 50), strict=True)
    }
    dropped = outside(standings, keep=0.5)
    assert dropped == {
        "a": "dropped after epoch 160 of seed 0: its 40.00 % is not among the best 2 of 4, from 60.00 % on",
        "d": "dropped after epoch 160 of seed 0: its 50.00 % is not among the best 2 of 4, from 60.00 % on",
    }
    assert outside(dict(reversed(standings.items())), keep=0.5) == dropped
    assert set(outside(standings, keep=0.25)) == set(outside(standings, keep=0.001)) == {"a", "c", "d"}


def test_half_of_a_race_is_what_the_median_rule_keeps() -> None:
    for values in ((1, 2, 3, 4, 5), (1, 2, 3, 4), (7, 7, 7), (3,)):
        standings = {f"{place}": standing(value) for place, value in enumerate(values)}
        median = statistics.median(values)
        below = {key for key, item in standings.items() if item.values[0] < median}
        assert set(outside(standings, keep=0.5)) == below


def test_equals_share_their_fate() -> None:
    standings = {"a": standing(70), "b": standing(60), "c": standing(60), "d": standing(50)}
    assert set(outside(standings, keep=0.5)) == {"d"}


def test_each_race_of_a_rung_keeps_its_own_share() -> None:
    big = {f"big {value}": standing(value, race="big") for value in (90, 91, 92, 93)}
    small = {f"small {value}": standing(value, race="small") for value in (60, 61)}
    assert set(outside({**big, **small}, keep=0.5)) == {"big 90", "big 91", "small 60"}


def test_a_run_that_diverged_comes_last_and_one_that_failed_takes_no_part() -> None:
    standings = {
        "a": standing(70),
        "b": standing(60),
        "c": standing(num_diverged=1, rung="epoch 9"),
        "d": standing(),
    }
    assert outside(standings, keep=0.7) == {"c": "dropped after epoch 9: it diverged"}  # 3 of 3 may stay
    assert trailing(standings, margin=99.0) == {"c": "dropped after epoch 9: it diverged"}
    assert outside({"c": standings["c"]}, keep=0.5) == {}


def test_by_turns_a_configuration_meets_only_those_before_it() -> None:
    standings = {f"{value}": standing(value) for value in (10, 30, 20, 5, 40)}
    dropped = in_turn(standings, lambda known: outside(known, keep=0.5))
    assert set(dropped) == {"5"}  # 10 was alone, 20 is among the best 2 of 3, 5 not among those of 4
    prefix = dict(list(standings.items())[:4])
    assert in_turn(prefix, lambda known: outside(known, keep=0.5)) == dropped


def test_a_share_is_rounded_up_and_never_empty() -> None:
    assert [share_of(number, 0.1) for number in (1, 9, 10, 11, 20, 30)] == [1, 1, 1, 2, 2, 3]
    assert [share_of(number, 1 / 3) for number in (3, 6, 9)] == [1, 2, 3]


def test_a_mean_that_is_known_well_enough_needs_no_more_seeds() -> None:
    close, wide = standing(70.0, 70.1, 70.2), standing(70.0, 71.0, 72.0)
    enough = precise({"close": close, "wide": wide}, target=0.1, fewest=3)
    assert enough == {"close": "enough after 3 seeds: the standard error of its mean, 0.058, is at most 0.1"}
    assert set(precise({"close": close, "wide": wide}, target=0.6, fewest=3)) == {"close", "wide"}


@pytest.mark.parametrize("values", [(70.0,), (70.0, 70.0)])
def test_two_seeds_that_agree_prove_nothing(values: tuple[float, ...]) -> None:
    assert precise({"a": standing(*values)}, target=1.0, fewest=3) == {}
