"""Tables in terminals that are too narrow for them, and in another order."""

import dataclasses
import math

import pytest

from kdctl.report.build import build_report
from kdctl.report.formats.markdown import markdown, markdown_within
from kdctl.report.table_format import Cell, Column, Table, sort_rows


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


def test_later_parts_repeat_only_what_tells_their_rows_apart(make_run):
    settings = [("ce", 0.1), ("kd", 0.1), ("kd", 0.2)]
    runs = [
        make_run(70.0 + place, settings={"method.name": method, "optimizer.learning_rate": rate})
        for place, (method, rate) in enumerate(settings)
    ]
    named = dataclasses.replace(build_report(runs, rows=["student", "method", "learning_rate"]), notes=())
    heads = [
        [cell.strip() for cell in block.splitlines()[0].strip("|").split("|")]
        for block in markdown_within(named, 45).split("\n\n")[1:]
    ]
    assert heads[0][:3] == ["student", "method", "learning rate"]
    assert {tuple(head[:2]) for head in heads[1:]} == {("method", "learning rate")}
    assert max(map(len, markdown_within(named, 45).splitlines())) <= 45


def test_a_terminal_that_is_wide_enough_gets_the_table_as_it_is(table):
    assert markdown_within(table, 100_000) == markdown(table)


@pytest.mark.parametrize(("descending", "known"), [(False, [1.0, 2.0, 3.0]), (True, [3.0, 2.0, 1.0])])
def test_what_is_missing_or_no_number_comes_last_however_rows_are_sorted(descending, known):
    losses = (3.0, math.nan, 1.0, None, 2.0)
    column = Column(title="loss", parts=("loss",))
    rows = tuple((Cell(text="", values=(loss,)),) for loss in losses)
    table = sort_rows(Table(caption="", columns=(column,), rows=rows), "loss", descending=descending)
    assert [cell.values[0] for (cell,) in table.rows][:3] == known
