from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from kdctl.recipe.recipe import Recipe
from kdctl.recipe.report_section import reported_numbers

BASE = 'extends = "simkd"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'


def test_a_report_and_published_numbers_are_kept_for_the_record(bench) -> None:
    recipe = bench.recipe(
        BASE
        + """
        [report]
        rows = ["method"]
        columns = ["lr"]
        select = "best-test"
        [[reported]]
        label = "KD"
        match = { method.name = "kd", optimizer.learning_rate = 0.05 }
        top1 = 75
        std = 0.18
        num_trials = 4
        select = "best-test"
        protocol = "simkd"
        source = "arXiv:2203.14001"
        [[reported]]
        match.method = "simkd"
        top1 = 76.75
        """
    )
    assert [number["top1"] for number in recipe.tree["reported"]] == [75, 76.75]


TABLE = """
    [[reported]]
    source = "a paper"
    num_trials = 4
    match = { data = "cifar100" }
    columns = [{ student = "vgg8" }, { student = "resnet8x4", learning_rate = 0.1 }]
    [reported.rows]
    method.kd = ["72.73 ± 0.15", 75.28]
    method.simkd = ["", "76.75 +- 0.23 (n = 2)"]
    [[reported]]
    label = "slides"
    [reported.rows.method.temperature]
    "2.5" = "70"
    "4" = 71
"""


def test_a_papers_table_is_as_many_numbers_as_it_has(bench) -> None:
    numbers = list(reported_numbers(bench.recipe(BASE + TABLE).tree["reported"]))
    paper = {"source": "a paper", "num_trials": 4}
    vgg = {"data": "cifar100", "student": "vgg8"}
    resnet = {"data": "cifar100", "student": "resnet8x4", "learning_rate": 0.1}
    assert numbers == [
        {**paper, "label": "kd", "top1": 72.73, "std": 0.15, "match": {**vgg, "method": "kd"}},
        {**paper, "label": "kd", "top1": 75.28, "match": {**resnet, "method": "kd"}},
        {
            **{"source": "a paper", "num_trials": 2, "label": "simkd", "top1": 76.75, "std": 0.23},
            "match": {**resnet, "method": "simkd"},
        },
        {"label": "slides", "top1": 70, "match": {"method.temperature": 2.5}},
        {"label": "slides", "top1": 71, "match": {"method.temperature": 4}},
    ]


def test_a_row_that_is_a_number_is_labelled_with_what_it_is_a_number_of() -> None:
    table = {"rows": {"kd_weight": {"0.5": 70}, "method": {"kd": 71}}}
    assert [number["label"] for number in reported_numbers([table])] == ["kd weight 0.5", "kd"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("rows.kd = [74.42, 70]", "[reported.1] rows.kd names no field and its value. // write rows.<field>"),
        ("rows.method.kd = [1]", "rows.method.kd has 1 number for 2 columns. // write ''"),
        ("rows.method.kd = ['74,42', 70]", "rows.method.kd has '74,42', which is no number. // write 75.52"),
        ("rows.method.kd = ['70 ± ', '']", "has '70 ± ', which is no number."),
        ("rows.method.kd = ['05.52', '']", "has '05.52', which is no number."),
        ("rows.method.kd = ['٧٥.٥٢', '']", "has '٧٥.٥٢', which is no number."),
        ("rows.method.kd = ['70 (n = 0)', '']", "has '70 (n = 0)', which is no number."),
        ("rows.method.kd = [true, '']", "has true, which is no number."),
        ("rows = 3", "[reported.1] rows = 3: should be an object."),
        ("rows.method.kd = [70, 71]\ntop1 = 70", "[reported.1] has no option 'top1'."),
        ("rows = {}", "[reported.1] rows has no row. // write rows.<field>"),
        ("rows.method.kd = [nan, '']", "[reported.1] rows.method.kd = nan: should be a finite number."),
        ("rows.method.kd = {}", "[reported.1] rows has no row."),
        ("rows.method.kd = ['755.2', '']", "has '755.2', which is more than 100 %. // write accuracies in"),
        ("rows.method.kd = ['75.5 ± 180', '']", "has '75.5 ± 180', which is more than 100 %."),
        ("rows.method.kd = ['75 ± 1 (n = 1)', '']", "but num_trials = 1, and one number has no spread."),
        ("rows.method.kd = ['75 ± 1', '']\nnum_trials = 1", "has '75 ± 1', but num_trials = 1"),
    ],
)
def test_mistakes_in_a_papers_table_name_the_row(bench, rows: str, said: str) -> None:
    head = "[[reported]]\ncolumns = [{ student = 'vgg8' }, { student = 'resnet8' }]\n"
    assert said in bench.mistake(f"{BASE}{head}{rows}")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("report.row = ['method']", "[report] has no option 'row'. // did you mean 'rows'?"),
        ("report.rows = 'method'", '[report] rows = "method": should be a valid'),
        ("report.select = 'best'", "[report] select = \"best\": should be 'last', 'best-val' or 'best-test'"),
        ("report = 3", "report = 3 is not a table."),
        ("reported = 3", "reported is not a list of tables."),
        ("reported = [3]", "reported.1 = 3 is not a table. // write it as [[reported]]."),
        ("[[reported]]\nmatch = {}\ntop1 = 755.2", "top1 = 755.2: should be less than or equal to 100."),
        ("[[reported]]\nmatch = {}\ntop1 = -1", "top1 = -1: should be greater than or equal to 0."),
        ("[[reported]]\nmatch = {}\ntop1 = 75\nstd = 101", "std = 101: should be less than or equal to 100."),
        ("[[reported]]\nmatch = {}\ntop1 = 75\nstd = 0.1\nnum_trials = 1", "one number has no spread."),
        ("[[reported]]\nmatch = {}\ntop1 = 75\nprotocol = ''", 'protocol = "": should have at least 1'),
        ("[[reported]]\nmatch = {}\ntop1 = '75'", '[reported.1] top1 = "75": should be a valid number'),
        ("[[reported]]\ntop1 = 75", "[reported.1] lacks the option 'match'."),
        (
            "[[reported]]\nmatch = {}\ntop1 = 75\nstdd = 1",
            "[reported.1] has no option 'stdd'. // did you mean 'std'",
        ),
        (
            "[[reported]]\nmatch = {}\ntop1 = 75\n[[reported]]\nmatch = {}",
            "[reported.2] lacks the option 'top1'.",
        ),
        ("[[reported]]\nmatch = {}\ntop1 = 75\nnum_trials = 0", "num_trials = 0: should be greater than 0"),
    ],
)
def test_mistakes_in_reports_are_told_before_anything_is_trained(bench, lines: str, said: str) -> None:
    assert said in bench.mistake(BASE + lines)


PAPER = (
    BASE
    + """
    [[reported]]
    source = "a paper"
    [reported.rows.method]
    ce = 72
    kd = 75
"""
)


def _matches(recipe: Recipe) -> list[Mapping[str, Any]]:
    return [number["match"] for number in reported_numbers(recipe.tree["reported"])]


@pytest.mark.parametrize(
    ("overrides", "about"),
    [
        ([], {}),
        (["student=ResNet-8x4", "schedule.epochs=3"], {}),
        (["student=vgg8"], {"student": "resnet8x4"}),
        (["data=cifar10"], {"data": "cifar100"}),
    ],
)
def test_published_numbers_stay_with_what_their_recipe_is_about(bench, overrides, about) -> None:
    ce, kd = _matches(bench.recipe(PAPER, *overrides))
    assert (ce, kd) == ({**about, "method": "ce"}, {**about, "method": "kd"})


def test_a_student_alone_has_no_teacher_that_could_be_another(bench) -> None:
    ce, kd = _matches(bench.recipe(PAPER, "teacher=wrn_40_2"))
    assert (ce, kd) == ({"method": "ce"}, {"method": "kd", "teacher": "resnet32x4"})


@pytest.mark.parametrize("line", ['student = "vgg8"', '[grid]\nstudent = ["resnet8x4", "vgg8"]'])
def test_a_recipe_that_extends_a_papers_does_not_take_its_numbers_for_other_students(bench, line) -> None:
    bench.write(PAPER, "paper.toml")
    recipe = bench.recipe(f'extends = "paper.toml"\n{line}\n')
    assert all(match["student"] == "resnet8x4" for match in _matches(recipe))


def test_what_a_number_or_the_grid_beside_it_says_is_left_as_it_is(bench) -> None:
    named = PAPER.replace('source = "a paper"', 'match.student = "resnet8x4"')
    assert _matches(bench.recipe(named, "student=vgg8"))[0] == {"student": "resnet8x4", "method": "ce"}
    tied = '[grid]\ntogether = [{ student = "vgg8" }, { student = "resnet8" }]\n'
    assert _matches(bench.recipe(PAPER + tied))[0] == {"method": "ce"}
