"""Which test may decide in a table: false verdicts and power of several rules, by simulation.

    python benchmarks/table_tests.py [--tables 8000] [--out benchmarks/results/DATE-table-tests.md]

A table has rows of a few seeds each, all compared with one control row. A rule says which rows differ from
it. Its error is how often it finds any difference in a table where there is none, its power how often it
finds the one row that is better by three standard deviations. Decision 16 rests on what this prints; it
needs NumPy and SciPy, and about five minutes of one core. The random numbers are the same in every run.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from table_rules import MOST_PERMUTED_TABLES, RULES, Numbers, Rule, Tables, permuted

GAIN = 3.0
"""Of the one row that is better, in standard deviations of a run."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a table is."""

    num_rows: int
    num_seeds: int
    """Of each row."""
    num_control_seeds: int


Scenario = Callable[[Size, int, np.random.Generator], Tables]
"""Draws tables."""


def _drawn(size: Size, num_tables: int, rng: np.random.Generator, *, shared: float = 0.0) -> Tables:
    """Draw runs of variance 1, of which the share `shared` is what the seed does to all rows alike."""
    num_seeds = max(size.num_seeds, size.num_control_seeds)
    seeds = np.sqrt(shared) * rng.standard_normal((num_tables, num_seeds))
    rows = rng.standard_normal((num_tables, size.num_rows, size.num_seeds))
    control = rng.standard_normal((num_tables, size.num_control_seeds))
    own = np.sqrt(1 - shared)
    return Tables(
        rows=own * rows + seeds[:, None, : size.num_seeds],
        control=own * control + seeds[:, : size.num_control_seeds],
    )


def _scaled(rows: Callable[[Size, int, np.random.Generator], Numbers], control: float) -> Scenario:
    def scenario(size: Size, num_tables: int, rng: np.random.Generator) -> Tables:
        drawn = _drawn(size, num_tables, rng)
        return Tables(
            rows=drawn.rows * rows(size, num_tables, rng)[..., None], control=drawn.control * control
        )

    return scenario


def _ones(size: Size, num_tables: int, rng: np.random.Generator) -> Numbers:
    del rng
    return np.ones((num_tables, size.num_rows))


def _some(share: Callable[[int], int], factor: float) -> Callable[..., Numbers]:
    """Multiply the spread of the rows after the first; how many, `share` says."""

    def scales(size: Size, num_tables: int, rng: np.random.Generator) -> Numbers:
        ones = _ones(size, num_tables, rng)
        ones[:, 1 : 1 + share(size.num_rows)] = factor
        return ones

    return scales


def _lognormal(size: Size, num_tables: int, rng: np.random.Generator) -> Tables:
    drawn = _drawn(size, num_tables, rng)
    rows = np.exp(0.4 * rng.standard_normal((num_tables, size.num_rows)))
    control = np.exp(0.4 * rng.standard_normal((num_tables, 1)))
    return Tables(rows=drawn.rows * rows[..., None], control=drawn.control * control)


def _collapsed(size: Size, num_tables: int, rng: np.random.Generator) -> Tables:
    drawn = _drawn(size, num_tables, rng)
    drawn.rows[:, 1, 0] -= 20.0
    return drawn


SCENARIOS: dict[str, Scenario] = {
    "equal spreads": _drawn,
    "lognormal 0.4": _lognormal,
    "one row x 5": _scaled(_some(lambda _: 1, 5.0), 1.0),
    "control x 2": _scaled(_ones, 2.0),
    "control x 3": _scaled(_ones, 3.0),
    "half the rows / 3": _scaled(_some(lambda rows: rows // 2, 1 / 3), 1.0),
    "a run collapsed": _collapsed,
    "seeds shared": functools.partial(_drawn, shared=0.5),
}


SIZES = (
    *((rows, 3, 3) for rows in (4, 10, 20, 40)),
    *((20, 3, control) for control in (4, 5, 6, 9)),
    *((20, 4, 4), (20, 5, 5), (4, 3, 5), (40, 3, 6)),
)


def rates(rule: Rule, scenario: Scenario, size: Size, num_tables: int) -> tuple[float, float]:
    """Return power and family-wise error of a rule; a run that collapsed makes its row no error."""
    count = min(num_tables, MOST_PERMUTED_TABLES) if rule is permuted else num_tables
    tables = scenario(size, count, np.random.default_rng(3))
    kept = [row for row in range(size.num_rows) if scenario is not _collapsed or row != 1]
    error = float(rule(tables)[:, kept].any(1).mean())
    better = Tables(rows=tables.rows.copy(), control=tables.control)
    better.rows[:, 0] += GAIN
    return float(rule(better)[:, 0].mean()), error


def markdown(num_tables: int) -> str:
    """Return everything as tables: power / error in each scenario."""
    parts: list[str] = []
    for numbers in SIZES:
        size = Size(**dict(zip(("num_rows", "num_seeds", "num_control_seeds"), numbers, strict=True)))
        parts.append(f"### {numbers[0]} rows of {numbers[1]} seeds, control of {numbers[2]}\n")
        parts.append(
            f"| rule | {' | '.join(SCENARIOS)} | largest error |\n|---|{'--:|' * (len(SCENARIOS) + 1)}"
        )
        for name, rule in RULES.items():
            cells = [rates(rule, scenario, size, num_tables) for scenario in SCENARIOS.values()]
            words = " | ".join(f"{power:.2f} / {error:.3f}" for power, error in cells)
            parts.append(f"| {name} | {words} | {max(error for _, error in cells):.3f} |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Print the tables, or write them to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=8000, help="how many of each kind are drawn")
    parser.add_argument("--out", type=Path, help="a file; printed if not given")
    arguments = parser.parse_args()
    text = (
        f"NumPy {np.__version__}, SciPy {scipy.__version__}; {arguments.tables} tables of each kind "
        f"({MOST_PERMUTED_TABLES} for permutations). Cells: power / family-wise error.\n\n"
        f"{markdown(arguments.tables)}"
    )
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
