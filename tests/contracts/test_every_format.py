"""What holds for every table format, also one that a plug-in brings."""

from __future__ import annotations

import copy

import pytest

from kdctl.report.table_format import Cell, Column, Table, report_formats

TABLE = Table(
    caption="Top-1 test accuracy (%)",
    columns=(
        Column(title="method", parts=("method",), align="left"),
        Column(title="top-1 (%)", parts=("top1_mean", "top1_std"), align="plus-minus"),
    ),
    rows=(
        (Cell(text="kd", values=("kd",)), Cell(text="74.42 ± 0.05", values=(74.42, 0.05))),
        (Cell(text="a | b, c", values=("a | b, c",)), Cell(text="18.36 ± —", values=(18.36, None))),
    ),
    notes=("n = 3 in every cell.",),
)


@pytest.fixture(params=report_formats.names())
def rendered(request: pytest.FixtureRequest) -> str:
    return report_formats.get(request.param).item(TABLE)


def test_a_format_ends_its_text_with_one_newline(rendered: str) -> None:
    assert rendered.endswith("\n")
    assert not rendered.endswith("\n\n")


def test_a_format_shows_every_row_with_its_numbers(rendered: str) -> None:
    assert "kd" in rendered
    assert "74.42" in rendered
    assert "0.05" in rendered
    assert "18.36" in rendered


def test_a_format_never_writes_nan_or_none(rendered: str) -> None:
    assert "nan" not in rendered.lower()
    assert "None" not in rendered


def test_a_format_leaves_the_table_as_it_was() -> None:
    for name in report_formats.names():
        table = copy.deepcopy(TABLE)
        report_formats.get(name).item(table)
        assert table == TABLE, name
