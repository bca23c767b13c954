from __future__ import annotations

import math

from kdctl.cli.details import BLOCKS, MISSING, sparkline


def test_the_lowest_value_is_the_lowest_block_and_the_highest_the_highest() -> None:
    assert sparkline([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]) == BLOCKS
    assert sparkline([3.0, -1.0]) == BLOCKS[-1] + BLOCKS[0]


def test_a_flat_curve_stays_on_the_ground() -> None:
    assert sparkline([5.0] * 4) == BLOCKS[0] * 4
    assert sparkline([]) == ""


def test_a_long_curve_is_drawn_by_the_means_of_its_parts() -> None:
    assert sparkline([0.0] * 90 + [1.0] * 90, width=4) == BLOCKS[0] * 2 + BLOCKS[-1] * 2
    assert len(sparkline(list(range(241)), width=60)) == 60


def test_what_is_no_number_is_a_gap() -> None:
    assert sparkline([1.0, math.nan, 2.0, math.inf]) == BLOCKS[0] + MISSING + BLOCKS[-1] + MISSING
    assert sparkline([math.nan]) == MISSING
