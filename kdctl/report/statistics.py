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

SIGNIFICANCE = 0.05
"""Probability of a false 'better' or 'worse' in a whole table, when nothing differs."""
MOST_SEEDS = 99
"""More than that nobody will add to decide a row."""
_POWER = 0.8


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


class MeanTestKind(enum.StrEnum):
    """Where a test has the variances from."""

    WELCH = "welch"
    """Each row's own."""
    MODERATED = "moderated"
    """What all rows of the table say about the spread, and the row's own."""
    PARTLY_MODERATED = "partly moderated"
    """One side's own, for its spread is unlike that of the rows; the other's moderated."""


@dataclass(frozen=True, kw_only=True)
class Variance:
    """An estimate of the variance of a single run."""

    value: float
    degrees_of_freedom: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Replicates in three numbers."""

    n: int | None
    """How many; None when a paper does not say."""
    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single run, or when a paper does not say."""

    @property
    def variance(self) -> Variance | None:
        """The sample variance; None for a single run, or when a paper does not say."""
        if self.n is None or self.n < 2 or self.std is None:
            return None
        return Variance(value=self.std**2, degrees_of_freedom=self.n - 1)


@dataclass(frozen=True, kw_only=True)
class MeanTest:
    """Whether two means differ."""

    p: float
    """Two-sided p-value."""
    degrees_of_freedom: float
    half_width: float
    """Of the 95 % confidence interval around the difference of the means."""
    variances: tuple[float, float]
    """Of single runs on either side, as the test took them."""
    kind: MeanTestKind


def summarize(values: Sequence[float]) -> Summary:
    """Return n, mean and sample standard deviation sqrt(sum (x - mean)^2 / (n - 1)).

    Where a value is infinite or no number, so is the mean, and there is no standard deviation.

    Raises:
        ValueError: there are no values.
    """
    if not all(map(math.isfinite, values)):
        return Summary(n=len(values), mean=sum(values) / len(values), std=None)
    return Summary(n=len(values), mean=statistics.fmean(values), std=_sample_std(values))


def _sample_std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None for a single value.

    A twentieth of the time of `statistics.stdev`, which adds fractions. That of equal values is 0 to the bit.
    """
    if len(values) < 2:
        return None
    shifted = [value - values[0] for value in values]
    mean = math.fsum(shifted) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in shifted) / (len(values) - 1))


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
    return standard_error if kind is Spread.SEM else standard_error * _t_quantile(0.975, summary.n - 1)


def welch(ours: Summary, theirs: Summary) -> MeanTest | None:
    """Test whether two means differ, by Welch's t-test (Welch 1947, Biometrika 34).

    t = (m1 - m2) / sqrt(v1 + v2) with v = s^2 / n, and the degrees of freedom of Welch and
    Satterthwaite, (v1 + v2)^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1)).

    Returns:
        The test; None where it cannot be made: a single run, an unknown n or spread, or no spread
        on either side.
    """
    if ours.variance is None or theirs.variance is None:
        return None
    return compare_means(ours, theirs, variances=(ours.variance, theirs.variance), kind=MeanTestKind.WELCH)


def compare_means(
    ours: Summary, theirs: Summary, *, variances: tuple[Variance, Variance], kind: MeanTestKind
) -> MeanTest | None:
    """Test whether two means differ, with estimates of the variances on either side.

    Moderated variances both come from the same rows, so their degrees of freedom do not add up: the
    smaller number counts. Otherwise they are those of Welch and Satterthwaite.

    Returns:
        The test; None for an unknown n, or where neither side has any spread.
    """
    if ours.n is None or theirs.n is None:
        return None
    ours_part, theirs_part = variances[0].value / ours.n, variances[1].value / theirs.n
    variance = ours_part + theirs_part
    if variance == 0.0:
        return None
    freedoms = variances[0].degrees_of_freedom, variances[1].degrees_of_freedom
    if kind is MeanTestKind.MODERATED:
        degrees_of_freedom = min(freedoms)
    else:
        # As shares of their sum, tiny variances do not vanish when they are squared.
        share = ours_part / variance
        degrees_of_freedom = 1.0 / (share**2 / freedoms[0] + (1.0 - share) ** 2 / freedoms[1])
    t = (ours.mean - theirs.mean) / math.sqrt(variance)
    return MeanTest(
        p=2.0 * _t_below(-abs(t), degrees_of_freedom),
        degrees_of_freedom=degrees_of_freedom,
        half_width=_t_quantile(0.975, degrees_of_freedom) * math.sqrt(variance),
        variances=(variances[0].value, variances[1].value),
        kind=kind,
    )


def more_seeds(test: MeanTest, ours: Summary, theirs: Summary, *, num_comparisons: int) -> int | None:
    """Return how many more seeds on both sides would show a difference of the size that was seen.

    That is the smallest number for which four of five repetitions would fall below the 5 % of a family
    of comparisons (after Bonferroni), if the true difference and variances were those of `test`.

    Returns:
        The number; None where `MOST_SEEDS` more are too few.
    """
    difference = abs(ours.mean - theirs.mean)
    if ours.n is None or theirs.n is None:
        return None
    for more in range(1, MOST_SEEDS + 1):
        freedom = test.degrees_of_freedom * (1 + 2 * more / (ours.n + theirs.n - 2))
        error = math.sqrt(test.variances[0] / (ours.n + more) + test.variances[1] / (theirs.n + more))
        limit = _t_quantile(1 - SIGNIFICANCE / (2 * num_comparisons), freedom)
        if difference >= (limit + _t_quantile(_POWER, freedom)) * error:
            return more
    return None


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


def _t_below(t: float, degrees_of_freedom: float) -> float:
    # Holds the same distribution as scipy.stats, and is imported in a tenth of the time.
    from scipy.special import stdtr  # noqa: PLC0415 - still as long as a table takes to make

    return float(stdtr(degrees_of_freedom, t))


def _t_quantile(share: float, degrees_of_freedom: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 - as above

    return float(stdtrit(degrees_of_freedom, share))
