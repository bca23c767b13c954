from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd"]
optimizer.learning_rate = [0.05, 0.1]
"""

Kdctl = Callable[..., Any]


@pytest.mark.extended
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
    kdctl("report --format htlm").refused("no table format 'htlm'", "did you mean 'html'", code=2)
    kdctl("report --rows metod").refused("metod", "did you mean 'method'", code=2)
    kdctl("report --spread wide").refused("no spread 'wide'", code=2)


def test_nothing_to_report_is_said(kdctl: Kdctl, tmp_path: Path) -> None:
    kdctl("report").refused("no database runs/kdctl.db", code=1)
    assert list(tmp_path.iterdir()) == []


FORMAT = """
from kdctl.report.table_format import report_formats

@report_formats.register("count")
def count(table):
    return f"{len(table.rows)} rows\\n"
"""
LAYOUT = """
from kdctl.report.layout_kind import LayoutKind, layouts

@layouts.register("students")
class StudentsLayout(LayoutKind):
    pools = True

    def usual_fields(self, plans, rows, columns, *, choosing):
        return rows or ("student.name",), columns or ("method.name",)
"""


@pytest.mark.extended
def test_a_report_takes_layouts_conditions_and_a_format_of_ones_own(
    kdctl: Kdctl, recipe: Callable[..., str], tmp_path: Path
) -> None:
    kdctl(f"sweep {recipe(GRID)} --threads 1 --quiet -o seeds=[0,1] -o data.val_fraction=0.2")
    assert "| teacher |" in kdctl("report --layout paper").out
    assert "chosen on validation accuracy" in kdctl("report --layout overview").out
    assert kdctl("report --layout runs --where method=kd").out.count("| kd ") == 4
    assert "test loss" in kdctl("report --rows method --values top1,loss --sort top1 --reverse").out
    assert "comparable" in kdctl("report --against published").out
    (tmp_path / "count.py").write_text(FORMAT)
    assert kdctl("report --plugin count.py --format count").out == "3 rows\n"
    (tmp_path / "students.py").write_text(LAYOUT)
    assert "| student | " in kdctl("report --plugin students.py --layout students").out
    kdctl("report --layout papr").refused("no layout 'papr'", "did you mean 'paper'", code=2)
    kdctl("report --values top2").refused("no value 'top2'", code=2)
    kdctl("report --where method=dkd").refused("no run has method=dkd", code=2)
    kdctl("report --against mine.toml").refused("mine.toml cannot be read", code=2)


@pytest.mark.extended
def test_a_report_goes_to_a_file_and_over_none_that_is_there(
    kdctl: Kdctl, swept_copy: Callable[[str], str], tmp_path: Path
) -> None:
    swept_copy(GRID)
    assert kdctl("report -o table.tex").out == ""
    written = (tmp_path / "table.tex").read_text()
    assert r"\begin{table}" in written
    kdctl("report -o table.tex").refused("table.tex is there already", "--force", code=1)
    assert (tmp_path / "table.tex").read_text() == written
    kdctl("report -o missing/table.tex").refused("no folder missing", code=1)
    assert kdctl("report --format markdown -o table.tex --force").code == 0
    assert (tmp_path / "table.tex").read_text().startswith("**Top-1")


@pytest.mark.extended
def test_the_ending_of_a_file_names_its_format(
    kdctl: Kdctl, swept_copy: Callable[[str], str], tmp_path: Path
) -> None:
    swept_copy(GRID)
    begins = {
        "a.md": "**Top-1",
        "a.txt": "**Top-1",
        "a": "**Top-1",
        "a.CSV": "method,",
        "a.json": "{",
        "a.tex": "\\begin{table}",
        "a.html": "<!DOCTYPE html>",
        "a.htm": "<!DOCTYPE html>",
    }
    for name, begin in begins.items():
        assert kdctl("report", "-o", name).code == 0
        assert begin in (tmp_path / name).read_text()[:4000], name
    kdctl("report -o a.xlsx").refused("a.xlsx: no table is written as '.xlsx'.", "markdown", code=2)
    kdctl("report -o -").refused("- is no name for a file.", "the table is printed", code=2)
    assert not [path for path in tmp_path.iterdir() if path.name in ("a.xlsx", "-")]
    assert kdctl("report -o a.xlsx --format csv").code == 0


@pytest.mark.extended
def test_runs_of_no_sweep_and_of_several_stand_in_one_table(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    trained = kdctl(f"train {recipe()} --threads 1 --quiet -o method=ce -o schedule.epochs=2")
    assert trained.code == 0
    kdctl(f"sweep {recipe(GRID)} --threads 1 --quiet")
    other = recipe(GRID, "other.toml")
    rates = "-o optimizer.learning_rate=0.2 -o teacher.optimizer.learning_rate=0.05"
    kdctl(f"sweep {other} --threads 1 --quiet -o name=other {rates}")
    assert "different numbers of epochs (1, 2)" in kdctl("report --all").out
    both = kdctl("report --sweep tiny --sweep other --format json")
    assert len(json.loads(both.out)["rows"]) == 4  # kd has its own rates, and the same runs in both


@pytest.mark.extended
def test_a_sweep_without_a_table_names_those_that_have_one(
    kdctl: Kdctl, swept_copy: Callable[[str], str], recipe: Callable[..., str]
) -> None:
    swept_copy(GRID)
    hot = recipe("[[grid]]\nmethod = ['ce', 'kd']\n", "hot.toml")
    rates = "-o optimizer.learning_rate=1e30 -o teacher.optimizer.learning_rate=0.05"
    kdctl(f"sweep {hot} --threads 1 --quiet -o name=hot {rates} -o schedule.epochs=3")
    kdctl("report").refused(
        "the newest sweep, 'hot'", "diverged", "smaller learning rate", "kdctl report --sweep tiny", code=1
    )


@pytest.mark.extended
def test_a_sweep_ends_with_its_best_configurations(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    told = kdctl(f"sweep {recipe(GRID)} --threads 1 --runs results").err
    assert "best by mean test accuracy (oracle: nothing was held out):" in told
    assert told.index("best by mean") < told.index("table: kdctl report --sweep tiny --runs results\n")


@pytest.mark.extended
def test_a_sweep_ends_with_the_epochs_that_its_report_would_show(
    kdctl: Kdctl, recipe: Callable[..., str]
) -> None:
    path = recipe(f"{GRID}[report]\nselect = 'best-test'\n")
    told = kdctl(f"sweep {path} --threads 1 -o schedule.epochs=2").err
    assert "nothing was held out), best test epoch (oracle: selected on the test set):" in told
    shown = {f"{row['top1_mean']:.2f}" for row in json.loads(kdctl("report --format json").out)["rows"]}
    assert set(re.findall(r": test ([\d.]+) ±", told)) == shown


@pytest.mark.slow
def test_a_report_is_a_page_and_pictures_too_and_overwrites_none_of_them(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    answer = kdctl("report -o report.html --figures pictures")
    assert (answer.code, answer.out) == (0, "")
    assert "written: report.html" in answer.err
    assert "left out: tsne" in answer.err
    page = (tmp_path / "report.html").read_text()
    assert "data:image/svg+xml;base64," in page
    for run in json.loads(kdctl("list runs --format json").out)["rows"]:
        assert run["run"] in page
    assert sorted(path.suffix for path in tmp_path.glob("pictures/bars.*")) == [".pdf", ".png", ".svg"]
    kdctl("report --format html -o report.html").refused("report.html is there already", "--force", code=1)
    kdctl("report --figures pictures").refused("is there already", "--force", code=1)
    kdctl("report --format html").refused("goes into a file", "-o report.html", code=2)
    assert kdctl("report --format html -o report.html --force --where method=kd").code == 0
    assert len((tmp_path / "report.html").read_text()) < len(page)
