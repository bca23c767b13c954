"""Rows against one control, by what all rows say of the spread."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from kdctl.report.moderated import (
    FEWEST_ROWS,
    MOST_DEGREES_OF_FREEDOM,
    moderated_tests,
    shared_spread,
)
from kdctl.report.statistics import (
    MOST_SEEDS,
    MeanTest,
    MeanTestKind,
    Summary,
    Variance,
    compare_means,
    more_seeds,
    summarize,
    welch,
)

LIKE = (0.35, 0.42, 0.28, 0.5, 0.44, 0.31)
"""Standard deviations of rows that differ by no more than chance."""


def row(mean: float, std: float | None, n: int = 3) -> Summary:
    return Summary(n=n, mean=mean, std=std)


def rows(*stds: float, mean: float = 70.0) -> list[Summary]:
    return [row(mean, std) for std in stds]


def against(table: Sequence[Summary], control: Summary) -> list[MeanTest | None]:
    return moderated_tests([(item, control) for item in table])


def variances(*stds: float) -> list[Variance]:
    return [Variance(value=std**2, degrees_of_freedom=2) for std in stds]


def test_rows_that_differ_by_no_more_than_chance_share_one_variance():
    shared = shared_spread(variances(*LIKE))
    assert shared is not None
    assert shared.degrees_of_freedom == MOST_DEGREES_OF_FREEDOM
    # The mean of log(chi2 with 2 degrees of freedom / 2) is minus Euler's constant.
    logs = np.log(np.square(LIKE))
    low, high = np.quantile(logs, [0.05, 0.95])
    assert math.log(shared.variance) == pytest.approx(
        np.clip(logs, low, high).mean() + np.euler_gamma, abs=1e-4
    )
    own = Variance(value=9.0, degrees_of_freedom=2)
    assert shared.moderate(own).value == pytest.approx(shared.variance, abs=1e-3)
    assert shared.moderate(own).degrees_of_freedom == 2 * len(LIKE)


def test_rows_whose_spreads_differ_share_less():
    """Variances drawn from the model: s^2 is chi-squared around sigma^2, and that is inverse chi-squared."""
    rng = np.random.default_rng(0)
    sigma2 = 0.2 * 8 / rng.chisquare(8, size=4000)
    drawn = sigma2 * rng.chisquare(4, size=4000) / 4
    shared = shared_spread([Variance(value=float(value), degrees_of_freedom=4) for value in drawn])
    assert shared is not None
    assert 8 < shared.degrees_of_freedom < 40  # winsorizing hides some of what they differ
    assert shared.variance == pytest.approx(0.2, rel=0.2)


def test_a_row_is_decided_that_its_own_spread_leaves_open():
    table = [row(71.5, 0.42), *rows(*LIKE)]
    control = row(70.0, 0.38)
    alone, together = welch(table[0], control), against(table, control)[0]
    assert alone is not None
    assert together is not None
    assert together.kind is MeanTestKind.MODERATED
    assert len(table) * alone.p > 0.05 > len(table) * together.p
    assert together.half_width < alone.half_width


def test_a_spread_unlike_the_others_stays_the_rows_own():
    table = [*rows(*LIKE), row(70.0, 4.0)]
    control = row(70.0, 0.38)
    test = against(table, control)[-1]
    assert test is not None
    assert test.kind is MeanTestKind.PARTLY_MODERATED
    assert test.variances[0] == pytest.approx(16.0)
    assert test.degrees_of_freedom == pytest.approx(2.0, rel=0.05)


def test_a_control_of_unlike_spread_keeps_its_own_against_every_row():
    tests = against([*rows(*LIKE), row(70.0, 4.0)], row(70.0, 1.2))
    assert {test.kind for test in tests[:-1] if test} == {MeanTestKind.PARTLY_MODERATED}
    assert [test.variances[1] for test in tests if test] == pytest.approx([1.44] * len(tests))
    alone = welch(row(70.0, 4.0), row(70.0, 1.2))
    assert tests[-1] == alone
    assert alone is not None
    assert alone.kind is MeanTestKind.WELCH


def test_few_rows_and_single_runs_share_nothing():
    few, control = rows(*LIKE[: FEWEST_ROWS - 1]), row(70.5, 0.4)
    assert against(few, control) == [welch(item, control) for item in few]
    single = row(70.5, None, n=1)
    assert against(rows(*LIKE), single) == [None] * len(LIKE)
    assert against([*rows(*LIKE), single], control)[-1] is None


def test_rows_without_any_spread_do_not_make_the_others_certain():
    """Three runs that agree to the last digit are chance on a small test set, not knowledge."""
    table = [*rows(0.3, 0.5, 0.4, 0.35), row(70.4, 0.0)]
    test = against(table, row(70.0, 0.4))[-1]
    assert test is not None
    assert test.variances[0] > 0.01
    assert against(rows(0.0, 0.0, 0.0, 0.4), row(71.0, 0.4))[0] == welch(row(70.0, 0.0), row(71.0, 0.4))


def test_equal_variances_of_known_size_give_students_test():
    test = compare_means(
        row(71.0, 0.5),
        row(70.0, 0.5),
        variances=(Variance(value=0.25, degrees_of_freedom=4), Variance(value=0.25, degrees_of_freedom=4)),
        kind=MeanTestKind.MODERATED,
    )
    expected = stats.ttest_ind_from_stats(71.0, 0.5, 3, 70.0, 0.5, 3)
    assert test is not None
    assert test.p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("num_comparisons", [1, 20])
def test_as_many_more_seeds_as_are_asked_for_decide_in_four_of_five_tables(num_comparisons):
    ours, theirs = row(70.6, 0.4), row(70.0, 0.4)
    test = welch(ours, theirs)
    assert test is not None
    more = more_seeds(test, ours, theirs, num_comparisons=num_comparisons)
    assert more is not None
    rng = np.random.default_rng(0)
    a = rng.normal(70.6, 0.4, size=(4000, 3 + more))
    b = rng.normal(70.0, 0.4, size=(4000, 3 + more))
    p = stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue
    assert np.mean(p * num_comparisons < 0.05) == pytest.approx(0.8, abs=0.06)


def test_no_number_of_seeds_is_promised_for_a_difference_of_nothing():
    ours, theirs = summarize([70.0, 70.4, 70.2]), summarize([70.1, 70.3, 70.2])
    test = welch(ours, theirs)
    assert test is not None
    assert more_seeds(test, ours, theirs, num_comparisons=1) is None
    assert MOST_SEEDS == 99
