"""The rule that is simulated is the rule that tables are decided by."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kdctl.report.moderated import moderated_tests
from kdctl.report.statistics import SIGNIFICANCE, holm, summarize

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the benchmark, which finds its rules beside itself."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("table_tests")


@pytest.mark.parametrize("counts", [(4, 3, 3), (12, 4, 6)])
@pytest.mark.parametrize("scenario", ["equal spreads", "lognormal 0.4", "one row x 5", "control x 3"])
def test_it_decides_as_the_report_does(
    simulation: ModuleType, scenario: str, counts: tuple[int, int, int]
) -> None:
    size = simulation.Size(num_rows=counts[0], num_seeds=counts[1], num_control_seeds=counts[2])
    tables = simulation.SCENARIOS[scenario](size, 40, np.random.default_rng(5))
    tables.rows[:, 0] += 3.0
    found = simulation.RULES["**chosen** + Holm"](tables)
    for rows, control, expected in zip(tables.rows, tables.control, found, strict=True):
        tests = moderated_tests([(summarize(row.tolist()), summarize(control.tolist())) for row in rows])
        corrected = holm([test.p for test in tests if test])
        assert [p < SIGNIFICANCE for p in corrected] == expected.tolist()
    assert found[:, 0].any()


def test_welch_alone_is_what_it_is_held_against(simulation: ModuleType) -> None:
    """Its family-wise error stays below 5 %, and it finds next to nothing."""
    size = simulation.Size(num_rows=20, num_seeds=3, num_control_seeds=3)
    scenario = simulation.SCENARIOS["equal spreads"]
    power, error = simulation.rates(simulation.RULES["Welch + Holm"], scenario, size, 1000)
    assert error < 0.05
    assert power == pytest.approx(0.07, abs=0.03)
