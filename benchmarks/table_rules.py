"""Rules that say which rows of simulated tables differ from the control: see `table_tests.py`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, fdtrc, polygamma, stdtr

from kdctl.report.moderated import (
    MOST_DEGREES_OF_FREEDOM,
    SMALLEST_SHARE,
    UNLIKE_CONTROL,
    UNLIKE_ROW,
    WINSORIZED,
)
from kdctl.report.statistics import SIGNIFICANCE

Numbers = NDArray[np.float64]
NUM_PERMUTATIONS = 199
MOST_PERMUTED_TABLES = 400


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Simulated tables; no row differs from the control, unless one was given a gain."""

    rows: Numbers
    """[tables, rows, seeds]."""
    control: Numbers
    """[tables, seeds of the control]."""

    @functools.cached_property
    def difference(self) -> Numbers:
        """Mean of each row minus mean of the control: [tables, rows]."""
        return self.rows.mean(2) - self.control.mean(1, keepdims=True)

    @functools.cached_property
    def row_variance(self) -> Numbers:
        """Sample variance of each row: [tables, rows]."""
        return self.rows.var(2, ddof=1)

    @functools.cached_property
    def control_variance(self) -> Numbers:
        """Sample variance of the control: [tables, 1]."""
        return self.control.var(1, ddof=1, keepdims=True)

    @property
    def counts(self) -> tuple[int, int]:
        """Seeds of a row, and of the control."""
        return self.rows.shape[2], self.control.shape[1]


Rule = Callable[[Tables], NDArray[np.bool_]]
"""Says which rows differ: [tables, rows]."""


def holm(p_values: Numbers) -> NDArray[np.bool_]:
    """Say which p-values Holm's method rejects: [tables, rows]."""
    order = np.argsort(p_values, axis=1)
    in_order = np.take_along_axis(p_values, order, axis=1)
    limits = SIGNIFICANCE / np.arange(p_values.shape[1], 0, -1)
    rejected = np.empty_like(order, dtype=bool)
    np.put_along_axis(rejected, order, np.logical_and.accumulate(in_order < limits, axis=1), axis=1)
    return rejected


def _two_sided(t: Numbers, degrees_of_freedom: Numbers | float) -> Numbers:
    return 2.0 * stdtr(degrees_of_freedom, -np.abs(t))


def _satterthwaite(difference: Numbers, *parts: tuple[Numbers, Numbers | float]) -> Numbers:
    """Return p-values of a difference whose variance is a sum of estimates with degrees of freedom."""
    variance = sum((part for part, _ in parts), np.zeros(()))
    return _two_sided(
        difference / np.sqrt(variance), variance**2 / sum(part**2 / freedom for part, freedom in parts)
    )


def welch(tables: Tables) -> NDArray[np.bool_]:
    """Welch's test, a row at a time."""
    n, m = tables.counts
    parts = (tables.row_variance / n, n - 1.0), (tables.control_variance / m, m - 1.0)
    return holm(_satterthwaite(tables.difference, *parts))


def _pooled_t(tables: Tables) -> Numbers:
    n, m = tables.counts
    squares = tables.row_variance.sum(1, keepdims=True) * (n - 1) + tables.control_variance * (m - 1)
    variance = squares / (tables.rows.shape[1] * (n - 1) + m - 1)
    return tables.difference / np.sqrt(variance * (1 / n + 1 / m))


@functools.cache
def _dunnett_limit(num_rows: int, counts: tuple[int, int]) -> float:
    rng = np.random.default_rng(7)
    rows, control = (
        rng.standard_normal((40_000, num_rows, counts[0])),
        rng.standard_normal((40_000, counts[1])),
    )
    null = Tables(rows=rows, control=control)
    return float(np.quantile(np.abs(_pooled_t(null)).max(1), 1 - SIGNIFICANCE))


def dunnett(tables: Tables) -> NDArray[np.bool_]:
    """Dunnett's test: one spread for all, and the largest of all statistics as its limit."""
    return np.abs(_pooled_t(tables)) > _dunnett_limit(tables.rows.shape[1], tables.counts)


def permuted(tables: Tables) -> NDArray[np.bool_]:
    """The largest statistic under permutations of all runs of a table (after Westfall and Young)."""
    rng = np.random.default_rng(11)
    n, m = tables.counts
    found = np.zeros(tables.difference.shape, dtype=bool)
    for place in range(min(len(found), MOST_PERMUTED_TABLES)):
        runs = np.concatenate([tables.rows[place].ravel(), tables.control[place]])
        shuffled = rng.permuted(np.tile(runs, (NUM_PERMUTATIONS, 1)), axis=1)
        others = Tables(
            rows=shuffled[:, : -m or None].reshape(len(shuffled), -1, n), control=shuffled[:, -m:]
        )
        one = Tables(rows=tables.rows[place : place + 1], control=tables.control[place : place + 1])
        largest = np.sort(np.abs(_pooled_t(others)).max(1))
        limit = largest[int(np.ceil((1 - SIGNIFICANCE) * (NUM_PERMUTATIONS + 1))) - 1]
        found[place] = np.abs(_pooled_t(one)[0]) > limit
    return found


def prior(variances: Numbers, freedom: int, *, winsorized: float = 0.0) -> tuple[Numbers, Numbers]:
    """Return the degrees of freedom and the variance that the rows of a table share: [tables, 1] each.

    Smyth 2004, section 6.2, and Phipson et al. 2016 where the log-variances are winsorized.
    """
    smallest = SMALLEST_SHARE * np.median(variances, axis=1, keepdims=True)
    logs = np.log(np.maximum(variances, smallest)) - digamma(freedom / 2) + np.log(freedom / 2)
    if winsorized:
        logs = np.clip(logs, *np.quantile(logs, [winsorized, 1 - winsorized], axis=1)[..., None])
    excess = np.maximum(logs.var(1, ddof=1, keepdims=True) - polygamma(1, freedom / 2), 1e-12)
    half = 0.5 + 1 / excess
    for _ in range(20):
        now = polygamma(1, half)
        half = half + now * (1 - now / excess) / polygamma(2, half)
    shared = np.minimum(2 * half, MOST_DEGREES_OF_FREEDOM)
    return shared, np.exp(logs.mean(1, keepdims=True) + digamma(shared / 2) - np.log(shared / 2))


def moderated(tables: Tables) -> NDArray[np.bool_]:
    """Variances moderated as limma does, the control's among them, without a look at who is unlike."""
    return _shared(tables, unlike_row=0.0, unlike_control=0.0, winsorized=0.0)


def control_apart(tables: Tables) -> NDArray[np.bool_]:
    """Moderated rows, but the control's own variance, always; rows of unlike spread go to Welch."""
    return _shared(tables, unlike_row=UNLIKE_ROW, unlike_control=1.0, winsorized=WINSORIZED)


def chosen(tables: Tables) -> NDArray[np.bool_]:
    """The rule of kdctl: moderated, but rows and control of unlike spread keep their own variance."""
    return _shared(tables, unlike_row=UNLIKE_ROW, unlike_control=UNLIKE_CONTROL, winsorized=WINSORIZED)


def _shared(
    tables: Tables, *, unlike_row: float, unlike_control: float, winsorized: float
) -> NDArray[np.bool_]:
    (n, m), num_rows = tables.counts, tables.rows.shape[1]
    shared, variance = prior(tables.row_variance, n - 1, winsorized=winsorized)

    def part(own: Numbers, count: int, unlike: float) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
        apart = fdtrc(count - 1, shared, own / variance) < unlike if unlike < 1 else np.ones_like(own, bool)
        mixed = (shared * variance + (count - 1) * own) / (shared + count - 1)
        freedom = np.minimum(shared + count - 1, num_rows * (n - 1))
        return np.where(apart, own, mixed) / count, np.where(apart, count - 1, freedom), apart

    row, row_freedom, row_apart = part(tables.row_variance, n, unlike_row)
    control, control_freedom, control_apart = part(tables.control_variance, m, unlike_control)
    together = _two_sided(
        tables.difference / np.sqrt(row + control), np.minimum(row_freedom, control_freedom)
    )
    separate = _satterthwaite(tables.difference, (row, row_freedom), (control, control_freedom))
    return holm(np.where(row_apart | control_apart, separate, together))


def paired(tables: Tables) -> NDArray[np.bool_]:
    """Differences by seed, their variances moderated; for equal numbers of seeds."""
    n = min(tables.counts)
    pairs = tables.rows[..., :n] - tables.control[:, None, :n]
    own = pairs.var(2, ddof=1)
    shared, variance = prior(own, n - 1, winsorized=WINSORIZED)
    mixed = (shared * variance + (n - 1) * own) / (shared + n - 1)
    freedom = np.minimum(shared + n - 1, own.shape[1] * (n - 1))
    return holm(_two_sided(pairs.mean(2) / np.sqrt(mixed / n), freedom))


RULES: dict[str, Rule] = {
    "Welch + Holm": welch,
    "Dunnett": dunnett,
    "permutations": permuted,
    "moderated + Holm": moderated,
    "paired, moderated + Holm": paired,
    "control apart + Holm": control_apart,
    "**chosen** + Holm": chosen,
}
