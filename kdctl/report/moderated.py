"""Tests of a table's rows against their control, by what all rows together say about the spread.

Three seeds tell a spread badly, and twenty rows of three tell it well, if their spreads are alike. So each
row's variance is moderated: drawn towards that of all rows, the more the less they differ (Smyth 2004,
"Linear models and empirical Bayes methods", Stat. Appl. Genet. Mol. Biol. 3; winsorized as in Phipson et
al. 2016, arXiv:1602.08678). Rows whose spread is larger than that allows keep their own, and so does the
control, for which less is enough: it is part of every comparison. Decision 16 says how this was chosen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kdctl.report.statistics import MeanTest, MeanTestKind, Summary, Variance, compare_means, welch

FEWEST_ROWS = 4
"""Fewer rows know too little of the spread to share it."""
UNLIKE_ROW = 0.1
"""A row keeps its own variance where the F-test of it against the others' has a p-value below this."""
UNLIKE_CONTROL = 0.3
"""The same for the control, whose spread goes into all comparisons."""
WINSORIZED = 0.05
"""Share of the rows at either end of the spreads that are taken for as extreme as the next."""
MOST_DEGREES_OF_FREEDOM = 1e5
"""Stands for rows whose spreads differ by no more than chance."""

_KINDS = (MeanTestKind.MODERATED, MeanTestKind.PARTLY_MODERATED, MeanTestKind.WELCH)
"""By how many sides keep their own variance."""
SMALLEST_SHARE = 0.01
"""Of the median variance, where spreads are held against each other: runs that agree to the last digit of a
small test set have none, and no logarithm."""


@dataclass(frozen=True, kw_only=True)
class SharedSpread:
    """What the rows of a table say together about the variance of each."""

    variance: float
    degrees_of_freedom: float
    """How many of its own would tell a row as much: small where the rows' spreads differ."""
    most: float
    """Degrees of freedom of all rows: no test has more."""

    def moderate(self, own: Variance) -> Variance:
        """Draw a row's own variance towards that of all rows."""
        freedom = self.degrees_of_freedom + own.degrees_of_freedom
        squares = self.degrees_of_freedom * self.variance + own.degrees_of_freedom * own.value
        return Variance(value=squares / freedom, degrees_of_freedom=min(freedom, self.most))

    def is_unlike(self, own: Variance, limit: float) -> bool:
        """Whether a variance is larger than those of the rows let expect."""
        from scipy.special import fdtrc  # noqa: PLC0415 - takes as long to import as a table takes to make

        ratio = own.value / self.variance
        return float(fdtrc(own.degrees_of_freedom, self.degrees_of_freedom, ratio)) < limit


def moderated_tests(pairs: Sequence[tuple[Summary, Summary]]) -> list[MeanTest | None]:
    """Test each row against its control; p-values are not corrected for being many.

    Args:
        pairs: (row, control) of rows that may share what they know of the spread: one student on one
            data set. The controls may be one and the same.

    Returns:
        A test for each pair, moderated or Welch's; None where there can be none (see `welch`).
    """
    shared = shared_spread([row.variance for row, _ in pairs if row.variance])
    if shared is None:
        return [welch(*pair) for pair in pairs]
    return [_test(row, control, shared) for row, control in pairs]


def _test(row: Summary, control: Summary, shared: SharedSpread) -> MeanTest | None:
    if row.variance is None or control.variance is None:
        return None
    row_is_unlike = shared.is_unlike(row.variance, UNLIKE_ROW)
    control_is_unlike = shared.is_unlike(control.variance, UNLIKE_CONTROL)
    variances = (
        row.variance if row_is_unlike else shared.moderate(row.variance),
        control.variance if control_is_unlike else shared.moderate(control.variance),
    )
    kind = _KINDS[row_is_unlike + control_is_unlike]
    return compare_means(row, control, variances=variances, kind=kind)


def shared_spread(variances: Sequence[Variance]) -> SharedSpread | None:
    """Return what the rows share; None for fewer than `FEWEST_ROWS`, or if most have no spread at all.

    The logarithm of a sample variance with d degrees of freedom has the mean log(sigma^2) + digamma(d / 2)
    - log(d / 2) and the variance trigamma(d / 2); what the rows' logarithms vary beyond that is how much
    their sigma^2 differ.
    """
    from scipy.special import digamma, polygamma  # noqa: PLC0415 - as above

    if len(variances) < FEWEST_ROWS:
        return None
    median = statistics.median(own.value for own in variances)
    if median == 0.0:
        return None
    halves = [own.degrees_of_freedom / 2 for own in variances]
    logs = [
        math.log(max(own.value, SMALLEST_SHARE * median)) - float(digamma(half)) + math.log(half)
        for own, half in zip(variances, halves, strict=True)
    ]
    logs = _winsorized(logs)
    excess = statistics.variance(logs) - statistics.fmean(float(polygamma(1, half)) for half in halves)
    freedom = min(2 * _inverse_trigamma(max(excess, 1e-12)), MOST_DEGREES_OF_FREEDOM)
    location = statistics.fmean(logs) + float(digamma(freedom / 2)) - math.log(freedom / 2)
    return SharedSpread(variance=math.exp(location), degrees_of_freedom=freedom, most=2 * sum(halves))


def _winsorized(values: Sequence[float]) -> list[float]:
    """Move what is beyond the outer quantiles to them; quantiles lie between neighbours, as NumPy's do."""
    ordered, last = sorted(values), len(values) - 1

    def quantile(share: float) -> float:
        place = share * last
        below = min(int(place), last - 1)
        return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])

    low, high = quantile(WINSORIZED), quantile(1 - WINSORIZED)
    return [min(max(value, low), high) for value in values]


def _inverse_trigamma(value: float) -> float:
    """Return y with trigamma(y) = value, by Newton's steps on 1 / trigamma (Smyth 2004, appendix)."""
    from scipy.special import polygamma  # noqa: PLC0415 - as above

    y = 0.5 + 1 / value
    for _ in range(50):
        now = float(polygamma(1, y))
        step = now * (1 - now / value) / float(polygamma(2, y))
        y += step
        if abs(step) < 1e-9 * y:
            break
    return y
