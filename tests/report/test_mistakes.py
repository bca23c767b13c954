"""What is wrong with a recipe's table is told before its runs, and by the table itself."""

import pytest

from kdctl.errors import UsageError
from kdctl.report.build import build_report
from kdctl.report.mistakes import doubtful_numbers, wrong_options

PLANS = [
    {
        "data": {"name": "digits", "val_fraction": 0.0},
        "student": {"name": "resnet8"},
        "method": {"name": "kd", "temperature": 4.0},
        "optimizer": {"name": "sgd", "learning_rate": 0.05},
    }
]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"select": "best-val"}, "select"),
        ({"best_by": "val"}, "best_by"),
        ({"layout": "overview"}, "layout"),
        ({"values": ["top1", "val_loss"]}, "values"),
    ],
)
def test_a_table_of_validation_images_is_told_when_none_are_held_out(options, name):
    (line,) = wrong_options(options, PLANS)
    assert line.startswith(f"[report] {name}: no run holds out validation images")
    holding_out = [*PLANS, {**PLANS[0], "data": {"name": "digits", "val_fraction": 0.1}}]
    assert not list(wrong_options(options, holding_out))


@pytest.mark.parametrize(
    "options", [{}, {"select": "best-test"}, {"layout": "overview", "best_by": "test"}, {"values": ["loss"]}]
)
def test_a_table_of_test_images_needs_no_others(options):
    assert not list(wrong_options(options, PLANS))


def test_a_field_is_spread_one_way_and_shown_once(make_run, make_sweep):
    settings = [{"optimizer.learning_rate": rate} for rate in (0.05, 0.1)]
    runs = [make_run(70.0 + rate, settings=each) for rate, each in enumerate(settings)]
    told = "columns: 'optimizer.learning_rate' is one of the rows."
    report = {"rows": ["lr"], "columns": ["learning_rate"]}
    assert list(wrong_options(report, [run.plan for run in runs])) == [f"[report] {told}"]
    with pytest.raises(UsageError, match="asked for as a row and as a column"):
        build_report(runs, rows=["lr"], columns=["learning_rate"])
    with pytest.raises(UsageError) as refusal:
        build_report(runs, make_sweep(runs, report=report))
    assert refusal.value.problem == f"the recipe's [report] {told}"
    assert refusal.value.hint.startswith("give --columns here, or mend it in the recipe")
    table = build_report(runs, rows=["lr", "learning_rate"], values=["loss", "loss"])
    assert [column.title for column in table.columns] == ["learning rate", "test loss", "n"]


def _doubts(*tables):
    return list(doubtful_numbers(tables, PLANS, lambda name: name in ("learning_rate", "alpha")))


@pytest.mark.parametrize("name", ["methd", "student.nam", "method.tau", "learning_rate.0"])
def test_a_published_number_that_can_stand_nowhere_is_told(name):
    (line,) = _doubts({"match": {name: "kd"}, "top1": 70, "source": "a paper"})
    assert line.startswith(f"[reported.1] a paper: no run of any recipe has a field '{name}'")


@pytest.mark.parametrize(
    "name",
    [
        "method",
        "method.name",
        "student",
        "teacher",
        "teachers",
        "student.weights",
        "method.alpha",
        "temperature",
    ],
)
def test_a_published_number_may_be_about_what_is_not_run_here(name):
    assert not _doubts({"match": {name: "another"}, "top1": 70})


def test_a_published_fraction_is_told():
    (line,) = _doubts({"rows": {"method": {"kd": [0.7552], "ce": [75.52], "at": [0]}}})
    assert line == "[reported.1] kd: top1 = 0.7552 is less than one percent, and accuracies are in percent"


def test_of_two_published_numbers_for_the_same_rows_the_one_that_is_left_out_is_told():
    first = {"match": {"method": "kd", "student": "ResNet-8"}, "top1": 70, "label": "a"}
    second = {"match": {"student.name": "resnet8", "method.name": "KD"}, "top1": 71, "label": "b"}
    assert _doubts(first, second) == [
        "[reported.2] b: 71 is about the same rows as [reported.1] a, whose 70 stands there"
    ]
    assert not _doubts(first, {**second, "top1": 70})
    assert not _doubts(first, {**second, "select": "best-test"})
    assert not _doubts(first, {**second, "match": {"method": "kd"}})


def test_a_number_without_a_source_says_so(make_run, make_sweep):
    runs = [make_run(70.0, settings={"method.name": "kd"})]
    sweep = make_sweep(runs, reported=[{"match": {"method": "kd"}, "top1": 71.0}])
    assert "Published: no source given." in build_report(runs, sweep).notes
    sweep = make_sweep(runs, reported=[{"match": {"method": "at"}, "top1": 71.0}])
    assert "Published, without a row here: no label 71.00." in build_report(runs, sweep).notes
