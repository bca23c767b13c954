"""What holds for every layout of tables, also one that a plug-in brings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from kdctl.records import StoredRun
from kdctl.report.build import build_report
from kdctl.report.layout_kind import layouts
from kdctl.report.table_format import Table, report_formats


@pytest.fixture
def runs(make_run: Callable[..., StoredRun]) -> list[StoredRun]:
    """Two methods at two learning rates, two seeds each, with a validation split."""
    return [
        make_run(
            top1 + 10 * rate + seed,
            seed=seed,
            val_top1=top1 - 10 * rate,
            settings={"method.name": method, "optimizer.learning_rate": rate},
        )
        for method, top1 in (("ce", 70.0), ("kd", 74.0))
        for rate in (0.05, 0.1)
        for seed in range(2)
    ]


@pytest.fixture(params=layouts.names())
def table(request: pytest.FixtureRequest, runs: Sequence[StoredRun]) -> Table:
    return build_report(runs, layout=request.param)


def test_cells_stand_below_columns_and_hold_a_value_for_each_part(table: Table) -> None:
    assert table.rows
    for row in table.rows:
        assert [len(cell.values) for cell in row] == [len(column.parts) for column in table.columns]


def test_raw_columns_have_names_of_their_own(table: Table) -> None:
    parts = [part for column in table.columns for part in column.parts]
    assert len(set(parts)) == len(parts)


def test_no_two_rows_look_alike(table: Table) -> None:
    words = [tuple(cell.text for cell in row) for row in table.rows]
    assert len(set(words)) == len(words)


def test_every_format_writes_it(table: Table) -> None:
    for name in report_formats.names():
        assert "kd" in report_formats.get(name).item(table), name


@pytest.mark.parametrize("name", layouts.names())
def test_runs_stay_as_they_were(name: str, runs: list[StoredRun]) -> None:
    before = [dataclasses.replace(run) for run in runs]
    build_report(runs, layout=name)
    assert runs == before


@pytest.mark.parametrize("name", layouts.names())
def test_rows_that_are_asked_for_are_rows(name: str, runs: Sequence[StoredRun]) -> None:
    table = build_report(runs, layout=name, rows=["method"])
    assert {"ce", "kd"} <= {row[0].text for row in table.rows} | {row[1].text for row in table.rows}


def test_each_says_what_it_is() -> None:
    for entry in layouts.entries():
        assert entry.summary.endswith("."), entry.name
