import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdctl.report.statistics import (
    Spread,
    Summary,
    Verdict,
    holm,
    spread_of,
    summarize,
    verdict,
    welch,
)
from kdctl.report.wording import verdict_words

OURS, THEIRS = (75.2, 75.5, 75.9), (74.9, 75.6, 75.1, 75.0)


def test_summary_is_mean_and_std_over_n_minus_1():
    summary = summarize(OURS)
    assert summary.n == 3
    assert summary.mean == pytest.approx(np.mean(OURS))
    assert summary.std == pytest.approx(np.std(OURS, ddof=1))


def test_a_single_run_has_a_mean_and_no_spread_of_any_kind():
    summary = summarize([18.36])
    assert summary == Summary(n=1, mean=18.36, std=None)
    assert [spread_of(summary, kind) for kind in Spread] == [None] * 4


def test_the_mean_of_nothing_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="at least one"):
        summarize([])


def test_spreads_agree_with_numpy_and_scipy():
    summary = summarize(THEIRS)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(THEIRS), scale=stats.sem(THEIRS))
    assert spread_of(summary, Spread.SAMPLE) == pytest.approx(np.std(THEIRS, ddof=1))
    assert spread_of(summary, Spread.POPULATION) == pytest.approx(np.std(THEIRS))
    assert spread_of(summary, Spread.SEM) == pytest.approx(stats.sem(THEIRS))
    assert spread_of(summary, Spread.CI95) == pytest.approx((high - low) / 2)


def test_an_unknown_number_of_trials_has_no_standard_error():
    assert spread_of(Summary(n=None, mean=75.0, std=0.2), Spread.SEM) is None


def test_welch_of_replicates_agrees_with_scipy():
    expected = stats.ttest_ind(OURS, THEIRS, equal_var=False)
    interval = expected.confidence_interval(0.95)
    test = welch(summarize(OURS), summarize(THEIRS))
    assert test is not None
    assert test.p == pytest.approx(expected.pvalue)
    assert test.degrees_of_freedom == pytest.approx(expected.df)
    assert test.half_width == pytest.approx((interval.high - interval.low) / 2)


def test_the_slides_claim_of_75_52_over_75_43_is_undecided():
    test = welch(Summary(n=3, mean=75.52, std=0.18), Summary(n=4, mean=75.43, std=0.26))
    expected = stats.ttest_ind_from_stats(75.52, 0.18, 3, 75.43, 0.26, 4, equal_var=False)
    assert test is not None
    assert test.p == pytest.approx(expected.pvalue)
    assert round(test.p, 2) == 0.61
    assert verdict(75.52 - 75.43, test.p) is Verdict.UNDECIDED


def test_welch_takes_the_smallest_spread_there_is():
    test = welch(summarize([0.0, 0.0]), summarize([0.0, 5.8e-147]))
    assert test is not None
    assert test.degrees_of_freedom == 1.0


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=6), st.lists(st.floats(0, 100), min_size=2, max_size=6)
)
def test_welch_does_not_care_which_side_is_ours(ours, theirs):
    one, other = welch(summarize(ours), summarize(theirs)), welch(summarize(theirs), summarize(ours))
    if one is None or other is None:
        assert one is other
    else:
        assert one.p == pytest.approx(other.p)
        assert 0.0 <= one.p <= 1.0


@pytest.mark.parametrize(
    "theirs",
    [
        Summary(n=1, mean=75.0, std=None),
        Summary(n=None, mean=75.0, std=0.3),
        Summary(n=4, mean=75.0, std=None),
    ],
)
def test_without_n_or_std_there_is_no_test(theirs):
    assert welch(summarize(OURS), theirs) is None
    assert welch(theirs, summarize(OURS)) is None


def test_equal_runs_on_both_sides_make_no_test():
    assert welch(summarize([75.0, 75.0]), summarize([74.0, 74.0])) is None


def test_holm_steps_down_and_never_lets_a_larger_p_overtake():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    for p, corrected in zip(p_values, holm(p_values), strict=True):
        assert p <= corrected <= min(1.0, len(p_values) * p) or math.isclose(p, corrected)


@pytest.mark.parametrize(
    ("difference", "p", "word"), [(0.3, 0.049, "better"), (-0.3, 0.049, "worse"), (3.0, 0.05, "undecided")]
)
def test_only_the_test_gives_a_direction(difference, p, word):
    assert verdict(difference, p) == word


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (0.0004, "better (p < 0.001)"),
        (0.0031, "better (p = 0.003)"),
        (0.0494, "better (p = 0.049)"),
        (0.0496, "better (p = 0.0496)"),
        (0.04998, "better (p = 0.04998)"),
        (0.05, "undecided (p = 0.050)"),
        (0.0504, "undecided (p = 0.050)"),
        (0.243, "undecided (p = 0.24)"),
    ],
)
def test_a_p_value_is_printed_on_its_verdict_s_side_of_five_percent(p, words):
    assert verdict_words(verdict(1.0, p), p) == words
