"""Means, spreads and tests for the three to five replicates that a table row usually has.

Every number here follows from a `Summary` (n, mean, sample standard deviation), so that rows of our
own and rows of a paper are compared by the same code.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# scipy.special holds the same distribution as scipy.stats and is imported in a tenth of the time.
from scipy.special import stdtr, stdtrit

SIGNIFICANCE = 0.05
"""Probability of a false 'better' or 'worse' in a whole table, when nothing differs."""


class Spread(enum.StrEnum):
    """What stands behind the ±."""

    SAMPLE = "sample"
    POPULATION = "population"
    SEM = "sem"
    CI95 = "ci95"


class Verdict(enum.StrEnum):
    """What a test says about a row against the one it is compared with."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    """No difference is shown, which is not to say that there is none."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Replicates in three numbers."""

    n: int | None
    """How many; None when a paper does not say."""
    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single run, or when a paper does not say."""


@dataclass(frozen=True, kw_only=True)
class WelchTest:
    """Whether two means differ, their variances being unknown and unequal."""

    p: float
    """Two-sided p-value."""
    degrees_of_freedom: float
    half_width: float
    """Of the 95 % confidence interval around the difference of the means."""


def summarize(values: Sequence[float]) -> Summary:
    """Return n, mean and sample standard deviation sqrt(sum (x - mean)^2 / (n - 1)).

    Raises:
        ValueError: there are no values.
    """
    std = statistics.stdev(values) if len(values) > 1 else None
    return Summary(n=len(values), mean=statistics.fmean(values), std=std)


def spread_of(summary: Summary, kind: Spread = Spread.SAMPLE) -> float | None:
    """Return the spread to print after the ±; None where it is not defined (one run).

    With s the sample standard deviation: sample s; population s sqrt((n - 1) / n); sem s / sqrt(n);
    ci95 t(0.975, n - 1) s / sqrt(n), half the width of Student's 95 % interval of the mean.
    """
    if summary.std is None or kind is Spread.SAMPLE:
        return summary.std
    if summary.n is None or summary.n < 2:
        return None
    if kind is Spread.POPULATION:
        return summary.std * math.sqrt((summary.n - 1) / summary.n)
    standard_error = summary.std / math.sqrt(summary.n)
    return standard_error if kind is Spread.SEM else standard_error * _t_quantile(summary.n - 1)


def welch(ours: Summary, theirs: Summary) -> WelchTest | None:
    """Test whether two means differ, by Welch's t-test (Welch 1947, Biometrika 34).

    t = (m1 - m2) / sqrt(v1 + v2) with v = s^2 / n, and the degrees of freedom of Welch and
    Satterthwaite, (v1 + v2)^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1)).

    Returns:
        The test; None where it cannot be made: a single run, an unknown n or spread, or no spread
        on either side.
    """
    ours_variance, theirs_variance = _variance_of_mean(ours), _variance_of_mean(theirs)
    if ours.n is None or theirs.n is None or ours_variance is None or theirs_variance is None:
        return None
    variance = ours_variance + theirs_variance
    if variance == 0.0:
        return None
    # As shares of their sum, tiny variances do not vanish when they are squared.
    share = ours_variance / variance
    degrees_of_freedom = 1.0 / (share**2 / (ours.n - 1) + (1.0 - share) ** 2 / (theirs.n - 1))
    t = (ours.mean - theirs.mean) / math.sqrt(variance)
    return WelchTest(
        p=2.0 * _t_below(-abs(t), degrees_of_freedom),
        degrees_of_freedom=degrees_of_freedom,
        half_width=_t_quantile(degrees_of_freedom) * math.sqrt(variance),
    )


def welch_from_values(ours: Sequence[float], theirs: Sequence[float]) -> WelchTest | None:
    """Test raw values by `welch`."""
    return welch(summarize(ours), summarize(theirs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for being a family, by Holm's step-down method (Holm 1979, Scand. J. Stat. 6).

    The k-th smallest of m becomes the largest of (m - j + 1) p_j over j <= k, and at most 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[place])
        corrected[place] = min(1.0, largest)
    return corrected


def verdict(difference: float, corrected_p: float) -> Verdict:
    """Word a test: a direction only where the corrected p-value is below 5 %."""
    if corrected_p >= SIGNIFICANCE:
        return Verdict.UNDECIDED
    return Verdict.BETTER if difference > 0 else Verdict.WORSE


def _variance_of_mean(summary: Summary) -> float | None:
    if summary.n is None or summary.n < 2 or summary.std is None:
        return None
    return summary.std**2 / summary.n


def _t_below(t: float, degrees_of_freedom: float) -> float:
    return float(stdtr(degrees_of_freedom, t))


def _t_quantile(degrees_of_freedom: float) -> float:
    return float(stdtrit(degrees_of_freedom, 0.975))
