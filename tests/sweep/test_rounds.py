from __future__ import annotations

import pytest

from kdctl.sweep.rounds import Standing, precise, trailing


def standing(*values: float, race: str = "", num_diverged: int = 0) -> Standing:
    return Standing(race=race, values=values, num_diverged=num_diverged)


def test_who_trails_the_leader_by_more_than_the_margin_is_dropped_and_told_why() -> None:
    standings = {"a": standing(70, 72), "b": standing(69, 69), "c": standing(68.9, 69)}
    dropped = trailing(standings, margin=2.0, names={"a": "lr 0.1"})
    assert list(dropped) == ["c"]
    assert dropped["c"] == (
        "dropped after 2 seeds: its mean 68.95 % trails lr 0.1 (71.00 %) by 2.05 points, more than 2"
    )


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


def test_a_mean_that_is_known_well_enough_needs_no_more_seeds() -> None:
    close, wide = standing(70.0, 70.1, 70.2), standing(70.0, 71.0, 72.0)
    enough = precise({"close": close, "wide": wide}, target=0.1, fewest=3)
    assert enough == {"close": "enough after 3 seeds: the standard error of its mean, 0.058, is at most 0.1"}
    assert set(precise({"close": close, "wide": wide}, target=0.6, fewest=3)) == {"close", "wide"}


@pytest.mark.parametrize("values", [(70.0,), (70.0, 70.0)])
def test_two_seeds_that_agree_prove_nothing(values: tuple[float, ...]) -> None:
    assert precise({"a": standing(*values)}, target=1.0, fewest=3) == {}
