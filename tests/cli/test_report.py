from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd"]
optimizer.learning_rate = [0.05, 0.1]
"""

Kdctl = Callable[..., Any]


def test_a_sweep_is_reported_in_every_format_by_fields_of_the_recipe(
    kdctl: Kdctl, recipe: Callable[..., str]
) -> None:
    kdctl(f"sweep {recipe(GRID)} --threads 1 --quiet -o seeds=[0,1]")
    markdown = kdctl("report")
    assert (markdown.code, markdown.err) == (0, "")
    assert "± sample std" in markdown.out
    assert markdown.out.count("| kd ") == 2
    assert "oracle" in kdctl("report --select best-test").out
    rows = list(csv.DictReader(io.StringIO(kdctl("report --format csv").out)))
    assert [row["n"] for row in rows] == ["2", "2", "2"]
    assert json.loads(kdctl("report --format json --sweep tiny").out)
    pivot = kdctl("report --rows method --columns learning_rate").out
    assert "0.05" in pivot
    assert "0.1" in pivot
    kdctl("report --sweep tinny").refused("no sweep 'tinny'", "did you mean 'tiny'", code=1)
    kdctl("report --format latx").refused("no table format 'latx'", code=2)
    kdctl("report --rows metod").refused("metod", "did you mean 'method'", code=2)
    kdctl("report --spread wide").refused("no spread 'wide'", code=2)


def test_nothing_to_report_is_said(kdctl: Kdctl, tmp_path: Path) -> None:
    kdctl("report").refused("no database runs/kdctl.db", code=1)
    assert list(tmp_path.iterdir()) == []
