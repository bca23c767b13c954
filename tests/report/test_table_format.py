"""Tables in terminals that are too narrow for them."""

import pytest

from kdctl.report.build import build_report
from kdctl.report.formats.markdown import markdown, markdown_within


@pytest.fixture
def table(make_run):
    tops = {"ce": (73.0, 73.2), "kd": (74.0, 74.1), "simkd": (78.0, 78.3)}
    return build_report(
        [
            make_run(top1, seed=seed, settings={"method.name": method})
            for method, values in tops.items()
            for seed, top1 in enumerate(values)
        ]
    )


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_no_cell_is_lost(table, width):
    text = markdown_within(table, width)
    assert max(map(len, text.splitlines())) <= width
    for cell in (cell.text for row in table.rows for cell in row):
        assert f" {cell} " in text
    words = set(text.replace("*", " ").replace("|", " ").split())
    assert set(table.caption.split()) <= words


def test_each_part_repeats_what_its_rows_are_about(table):
    parts = [block for block in markdown_within(table, 60).split("\n\n") if block.startswith("|")]
    assert len(parts) > 1
    assert all(part.startswith("| method ") for part in parts)


def test_a_terminal_that_is_wide_enough_gets_the_table_as_it_is(table):
    assert markdown_within(table, 100_000) == markdown(table)
