"""Golden files, to be read by eye: tests/golden/report/."""

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

import pytest

from kdctl.errors import KdctlError
from kdctl.report.build import build_report
from kdctl.report.table_format import Cell, Column, Table, report_formats

GOLDEN = Path(__file__).parents[1] / "golden" / "report"
ENDINGS = {"markdown": "md", "csv": "csv", "json": "json", "latex": "tex"}

REPORTED = [
    {
        "label": "KD",
        "match": {"method.name": "kd"},
        "top1": 74.42,
        "std": 0.05,
        "num_trials": 4,
        "protocol": "simkd",
        "select": "best-test",
        "source": "arXiv:2203.14001 Table 1",
    },
    {
        "label": "SimKD",
        "match": {"method.name": "simkd"},
        "top1": 78.08,
        "std": 0.15,
        "num_trials": 4,
        "protocol": "simkd",
        "select": "best-test",
        "source": "arXiv:2203.14001 Table 1",
    },
    {"label": "AT", "match": {"method.name": "at"}, "top1": 75.07, "source": "a talk"},
]
TOPS = {
    "ce": (73.05, 73.38, 72.81),
    "kd": (74.40, 74.47, 74.31),
    "at": (75.10,),
    "simkd": (78.02, 78.21, 77.95, 78.10),
    "crd": (75.61, 75.44),
}


@pytest.fixture
def methods_table(make_run, make_sweep):
    runs = [
        make_run(top1, seed=seed, settings={"method.name": method})
        for method, tops in TOPS.items()
        for seed, top1 in enumerate(tops)
    ]
    runs += [
        make_run(seed=2, state="planned", settings={"method.name": "crd"}),
        make_run(
            seed=3, state="diverged", reason="non-finite loss in epoch 3", settings={"method.name": "crd"}
        ),
        make_run(seed=0, state="failed", reason="out of memory", settings={"method.name": "vid"}),
    ]
    teachers = [
        make_run(top1, seed=seed, settings={"method.name": "ce", "student.name": "wrn_40_2"})
        for seed, top1 in enumerate((76.2, 76.4))
    ]
    sweep = make_sweep(runs, teachers=teachers, reported=REPORTED, report={"select": "best-test"})
    return build_report([*runs, *teachers], sweep)


@pytest.fixture
def pivot_table(deck_b):
    return build_report(deck_b, rows=["lr"], columns=["loss"], select="best-test")


@pytest.mark.parametrize("name", sorted(ENDINGS))
@pytest.mark.parametrize("table", ["methods_table", "pivot_table"])
def test_tables_are_written_as_the_golden_files_show(name, table, request):
    written = report_formats.get(name).item(request.getfixturevalue(table))
    assert written == (GOLDEN / f"{table}.{ENDINGS[name]}").read_text(encoding="utf-8")


def test_every_format_that_people_paste_has_a_golden_file():
    assert set(ENDINGS) == {entry.name for entry in report_formats.entries() if not entry.origin}


def test_no_format_ever_writes_nan(methods_table):
    for entry in report_formats.entries():
        assert "nan" not in entry.item(methods_table).casefold()


def test_csv_reads_back_as_the_raw_numbers(methods_table):
    rows = list(csv.DictReader(io.StringIO(report_formats.get("csv").item(methods_table))))
    records = methods_table.records()
    assert [float(row["top1_mean"] or "0") for row in rows] == [
        record["top1_mean"] or 0.0 for record in records
    ]
    assert [row["n"] for row in rows] == [str(record["n"]) for record in records]


def test_json_has_a_schema_and_the_raw_numbers(methods_table):
    tree = json.loads(report_formats.get("json").item(methods_table))
    assert tree["schema"] == 1
    assert tree["rows"] == methods_table.records()


def test_markdown_is_aligned_in_the_raw_text_and_escapes_bars():
    table = Table(
        caption="A table",
        columns=(
            Column(title="name", parts=("name",), align="left"),
            Column(title="top-1", parts=("mean", "std"), align="plus-minus"),
        ),
        rows=(
            (Cell(text="a|b", values=("a|b",)), Cell(text="75.05 ± 10.34", values=(75.05, 10.34))),
            (Cell(text="c", values=("c",)), Cell(text="9.36 ± —", values=(9.36, None))),
            (Cell(text="d", values=("d",)), Cell(text="—", values=(None, None))),
        ),
    )
    assert report_formats.get("md").item(table) == (
        "**A table**\n"
        "\n"
        "| name |         top-1 |\n"
        "| ---- | ------------: |\n"
        "| a\\|b | 75.05 ± 10.34 |\n"
        "| c    |  9.36 ± —     |\n"
        "| d    |             — |\n"
    )


HOSTILE = "=1\x1b[31m\x9b\x7f\u202e\u200b<b>|$x_{\\%#^~}"
"""What a name from a file or a plug-in may hold."""


@pytest.mark.parametrize("name", ENDINGS)
def test_no_format_holds_what_a_terminal_would_obey(name):
    column = Column(title="top-1", parts=("mean",), align="right")
    table = Table(
        caption=HOSTILE,
        columns=(Column(title=HOSTILE, parts=("name",), align="left"), column),
        rows=((Cell(text=HOSTILE, values=(HOSTILE,)), Cell(text="1.00", values=(1.0,))),),
        notes=(HOSTILE,),
    )
    written = report_formats.get(name).item(table)
    assert not set(written) & set("\x1b\x9b\x7f\u202e\u200b")
    assert "u202e" in written
    if name == "json":
        tree = json.loads(written)
        assert (tree["caption"], tree["notes"], tree["rows"][0]["name"]) == (HOSTILE, [HOSTILE], HOSTILE)


def with_loss(run, loss):
    selected = {
        rule: dataclasses.replace(epoch, test=dataclasses.replace(epoch.test, loss=loss))
        for rule, epoch in run.result.selected.items()
    }
    return dataclasses.replace(run, result=dataclasses.replace(run.result, selected=selected))


def test_a_loss_that_is_no_number_is_told_and_no_format_stumbles_over_it(make_run):
    losses = (1.0, math.inf, -math.inf)
    runs = [with_loss(make_run(75.0, seed=seed), loss) for seed, loss in enumerate(losses)]
    rate = {"optimizer.learning_rate": 0.1}
    runs += [with_loss(make_run(70.0, seed=seed, settings=rate), math.inf) for seed in range(2)]
    table = build_report(runs, values=["top1", "loss"])
    assert [row[2].text for row in table.rows] == ["nan ± —", "inf ± —"]
    for entry in report_formats.entries():
        assert "inf" in entry.item(table)
    rows = json.loads(report_formats.get("json").item(table))["rows"]
    assert [(row["loss_mean"], row["loss_std"]) for row in rows] == [("nan", None), ("inf", None)]


def test_an_accuracy_that_is_no_number_counts_as_none(make_run):
    runs = [make_run(top1, seed=seed) for seed, top1 in enumerate((75.0, 77.0, math.nan))]
    (record,) = build_report(runs).records()
    assert (record["top1_mean"], record["n"], record["num_planned"]) == (76.0, 2, 3)
    with pytest.raises(KdctlError, match="no finished run has an accuracy that is a number"):
        build_report(runs[2:])
