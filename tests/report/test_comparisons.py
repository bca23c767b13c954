"""Rows beside their baseline and beside published numbers."""

import pytest

from kdctl.errors import UsageError
from kdctl.recipe.engine_options import EngineOptions
from kdctl.report.build import build_report
from kdctl.report.reported import read_reported

SIMKD = {
    "label": "SimKD",
    "match": {"method.name": "SimKD", "student": "ResNet-8x4"},
    "top1": 78.08,
    "std": 0.15,
    "num_trials": 4,
    "protocol": "simkd",
    "select": "last",
    "source": "arXiv:2203.14001 Table 1",
}


@pytest.fixture
def replicates(make_run):
    def make(*tops, method="simkd", rate=0.05, **settings):
        settings = {"method.name": method, "optimizer.learning_rate": rate, **settings}
        return [make_run(top1, seed=seed, settings=settings) for seed, top1 in enumerate(tops)]

    return make


def test_better_worse_and_undecided_come_from_the_test(replicates):
    table = build_report(
        [
            *replicates(73.0, 73.2, 72.9, method="ce"),
            *replicates(78.0, 78.2, 78.1, method="simkd"),
            *replicates(73.1, 72.8, 73.3, method="kd"),
            *replicates(71.0, 71.2, 71.1, method="at"),
        ]
    )
    rows = {record["method"]: record for record in table.records()}
    assert rows["simkd"]["verdict"] == "better"
    assert rows["kd"]["verdict"] == "undecided"
    assert rows["at"]["verdict"] == "worse"
    assert rows["ce"]["verdict"] is None
    assert rows["simkd"]["difference"] == pytest.approx(5.066667)
    assert any("Holm-corrected over the 3 comparisons with ce" in note for note in table.notes)


@pytest.mark.parametrize(("tops", "told"), [((73.1, 72.8, 73.3), True), ((78.0, 78.2, 78.1), False)])
def test_undecided_is_told_from_equal(replicates, tops, told):
    notes = build_report([*replicates(73.0, 73.2, 72.9, method="ce"), *replicates(*tops)]).notes
    assert any("Undecided does not mean equal" in note for note in notes) is told


def test_a_single_run_has_a_difference_and_no_verdict(replicates):
    record = build_report([*replicates(73.0, 73.2, method="ce"), *replicates(78.0)]).records()[1]
    assert record["difference"] == pytest.approx(4.9)
    assert "verdict" not in record  # an empty column is left out


def test_the_baseline_with_equal_settings_comes_before_a_better_one(replicates):
    table = build_report(
        [
            *replicates(73.0, method="ce", rate=0.05),
            *replicates(74.0, method="ce", rate=0.1),
            *replicates(78.0, rate=0.05),
        ]
    )
    assert table.records()[-1]["difference"] == pytest.approx(5.0)
    assert "Δ ce: against ce with otherwise equal settings." in table.notes


@pytest.mark.parametrize(("option", "value"), [("teacher_precision", "bf16"), ("fold_teacher", False)])
def test_how_a_teacher_is_run_is_no_setting_of_a_baseline_without_one(replicates, option, value):
    runs = [
        *replicates(73.0, method="ce", **{f"engine.{option}": getattr(EngineOptions(), option)}),
        *replicates(78.0, **{f"engine.{option}": value}),
    ]
    assert "Δ ce: against ce with otherwise equal settings." in build_report(runs).notes


def test_without_equal_settings_the_best_baseline_is_taken_and_named(replicates):
    table = build_report(
        [
            *replicates(73.0, method="ce", rate=0.05),
            *replicates(74.0, method="ce", rate=0.1),
            *replicates(78.0, rate=0.01),
        ]
    )
    assert table.records()[-1]["difference"] == pytest.approx(4.0)
    assert (
        "Δ ce, where no ce run has otherwise equal settings: against ce, learning rate 0.1, the best of 2."
        in table.notes
    )


def test_where_seeds_are_told_apart_each_is_held_against_itself(make_run):
    ce = {0: 70.0, 1: 71.0, 2: 75.0}
    runs = [make_run(top1, seed=seed, settings={"method.name": "ce"}) for seed, top1 in ce.items()]
    runs += [make_run(76.0, seed=seed, settings={"method.name": "kd"}) for seed in (0, 1, 3)]
    records = build_report(runs, rows=["method", "seed"]).records()
    told = {record["seed"]: record["difference"] for record in records if record["method"] == "kd"}
    assert told == {0: 6.0, 1: 5.0, 3: None}
    slow = [make_run(77.0, seed=1, settings={"method.name": "kd", "optimizer.learning_rate": 0.1})]
    table = build_report([*runs, *slow], rows=["method", "learning_rate", "seed"])
    assert table.records()[-1]["difference"] == 6.0


@pytest.mark.parametrize("setting", ["student.name", "data.name", "data_fingerprint", "protocol"])
def test_another_student_data_set_or_protocol_is_no_baseline(replicates, setting):
    runs = [*replicates(73.0, method="ce", **{setting: "other"}), *replicates(78.0)]
    assert "difference" not in build_report(runs).records()[0]


def test_pooled_configurations_are_subtracted_but_never_tested(replicates):
    runs = [*replicates(73.0, 73.1, method="ce"), *replicates(78.0, 78.1), *replicates(77.0, 77.1, rate=0.1)]
    record = build_report(runs, rows=["method"]).records()[1]
    assert record["difference"] == pytest.approx(4.5)
    assert "verdict" not in record


def test_a_baseline_that_averages_over_the_same_settings_in_other_shares_is_not_equal(replicates):
    """Four of the method's five runs have one rate, and half of the baseline's."""
    baselines = [*replicates(70.0, method="ce", rate=0.05), *replicates(72.0, method="ce", rate=0.1)]
    rows = [*replicates(78.0, 78.2, 78.1, 78.3, rate=0.05), *replicates(60.0, rate=0.1)]
    equal = "against ce with otherwise equal settings"
    uneven = build_report([*baselines, *rows], rows=["method"])
    assert not any(equal in note for note in uneven.notes)
    even = build_report([*baselines, *rows[3:]], rows=["method"])
    assert any(equal in note for note in even.notes)


def test_a_published_number_stands_beside_its_row_and_is_tested(replicates, make_sweep):
    runs = replicates(78.2, 78.0, 78.1)
    table = build_report(runs, make_sweep(runs, reported=[SIMKD]))
    record = table.records()[0]
    assert record["published_mean"] == 78.08
    assert record["published_difference"] == pytest.approx(0.02)
    assert record["published_verdict"] == "undecided"
    assert "Published: arXiv:2203.14001 Table 1 (protocol simkd, last epoch, 4 trials)." in table.notes


@pytest.mark.parametrize("unknown", ["std", "num_trials"])
def test_unknown_std_or_trials_get_a_dagger_and_no_test(replicates, make_sweep, unknown):
    runs = replicates(78.2, 78.0, 78.1)
    published = {key: value for key, value in SIMKD.items() if key != unknown}
    table = build_report(runs, make_sweep(runs, reported=[published]))
    assert any(cell.text.endswith("†") for cell in table.rows[0])
    assert table.records()[0].get("published_verdict") is None
    assert "† published without std or number of trials: no test." in table.notes


def test_another_selection_is_shown_but_not_tested(replicates, make_sweep):
    runs = replicates(78.2, 78.0, 78.1)
    table = build_report(runs, make_sweep(runs, reported=[SIMKD | {"select": "best-test"}]))
    assert any(cell.text == "78.08 ± 0.15‡" for cell in table.rows[0])
    assert table.records()[0].get("published_verdict") is None


def test_the_published_number_that_matches_most_fields_wins(replicates, make_sweep):
    runs = [*replicates(78.0), *replicates(77.0, rate=0.1)]
    narrow = SIMKD | {"match": {"method": "simkd", "student": "resnet8x4", "lr": 0.1}, "top1": 77.5}
    records = build_report(runs, make_sweep(runs, reported=[SIMKD, narrow])).records()
    assert [record["published_mean"] for record in records] == [78.08, 77.5]


def test_a_number_whose_row_has_a_better_one_is_not_without_a_row(replicates, make_sweep):
    runs = replicates(78.0)
    short = SIMKD | {"match": {"method": "simkd"}, "top1": 77.5}
    table = build_report(runs, make_sweep(runs, reported=[short, SIMKD]))
    assert [record["published_mean"] for record in table.records()] == [78.08]
    assert not any("without a row" in note for note in table.notes)


def test_published_numbers_without_a_row_are_listed(replicates, make_sweep):
    runs = replicates(78.0)
    other = SIMKD | {"label": "CRD", "match": {"method": "crd", "method.unknown": 1}, "top1": 75.59}
    assert (
        "Published, without a row here: CRD 75.59."
        in build_report(runs, make_sweep(runs, reported=[other])).notes
    )


def test_published_numbers_of_pairs_that_were_not_run_are_not_missed(replicates, make_sweep):
    runs = replicates(78.0)
    wider = [
        SIMKD | {"match": {"student": "vgg8", "method": "simkd"}},
        SIMKD | {"match": {"data": "cifar10"}},
    ]
    assert not [
        note for note in build_report(runs, make_sweep(runs, reported=wider)).notes if "without" in note
    ]


def test_a_papers_table_gives_each_row_its_number(replicates, make_sweep):
    runs = [*replicates(78.0, 78.2), *replicates(77.0, 77.1, rate=0.1)]
    paper = {
        "source": "a paper",
        "num_trials": 4,
        "columns": [{"lr": 0.05}, {"lr": 0.1}],
        "rows": {"method": {"simkd": ["78.08 ± 0.15", 77.5]}},
    }
    records = build_report(runs, make_sweep(runs, reported=[paper])).records()
    assert [record["published_mean"] for record in records] == [78.08, 77.5]
    assert [record.get("published_std") for record in records] == [0.15, None]


def test_mistakes_in_reported_tables_are_named():
    with pytest.raises(UsageError, match=r"\[\[reported\]\] 1 \(SimKD\) has no option 'trials'") as caught:
        read_reported({"reported": [SIMKD | {"trials": 4}]})
    assert "num_trials" in caught.value.hint
    with pytest.raises(UsageError, match="has no 'top1'"):
        read_reported({"reported": [{"match": {"method": "kd"}}]})


def test_rows_of_one_student_share_what_they_know_of_the_spread(replicates):
    """Five of these six rows gain ten times their spread, and Welch's test with Holm shows none of them."""
    gains = {"kd": 1.6, "at": 1.5, "sp": 1.8, "crd": 1.9, "vid": 1.4, "dist": 0.3}
    spreads = {"kd": 0.5, "at": 0.4, "sp": 0.3, "crd": 0.3, "vid": 0.3, "dist": 0.4}
    rows = [
        replicates(*(73.0 + gain + step * spreads[method] for step in (-1, 0, 1)), method=method)
        for method, gain in gains.items()
    ]
    table = build_report(
        [*replicates(72.6, 73.0, 73.4, method="ce"), *(run for runs in rows for run in runs)]
    )
    records = {record["method"]: record for record in table.records()}
    assert [method for method, record in records.items() if record["verdict"] == "better"] == list(gains)[:-1]
    assert {records[method]["test"] for method in gains} == {"moderated"}
    assert records["dist"]["more_seeds"] > 5
    assert records["kd"]["more_seeds"] is None
    notes = "\n".join(table.notes)
    assert "two-sided t-tests at 5 % (6 with variances moderated by all rows of the student), p Holm" in notes
    assert "how many more seeds on both sides would show a difference of this size" in notes


def test_rows_of_different_students_share_nothing(replicates):
    """Three rows of each of two are too few."""
    runs = [
        run
        for student in ("resnet8", "vgg8")
        for method, top1 in {"ce": 73.0, "kd": 74.0, "at": 74.2, "sp": 73.7}.items()
        for run in replicates(top1 - 0.3, top1, top1 + 0.2, method=method, **{"student.name": student})
    ]
    table = build_report(runs, rows=["student", "method"])
    assert {record["test"] for record in table.records() if record["verdict"]} == {"welch"}
    assert any("Welch's two-sided t-test at 5 %, p Holm-corrected over the 6" in note for note in table.notes)


def test_published_numbers_are_compared_by_welchs_test_however_many_rows_share_one(replicates, make_sweep):
    runs = [
        run for rate in (1, 2, 3, 4, 5) for run in replicates(78.2, 78.0, 78.1 + rate / 100, rate=rate / 10)
    ]
    table = build_report(runs, make_sweep(runs, reported=[SIMKD]))
    assert {record["published_verdict"] for record in table.records()} == {"undecided"}
    assert any(note.startswith("Verdicts: Welch's two-sided t-test") for note in table.notes)


def test_rows_with_baselines_of_their_own_rate_share_the_spread_of_their_student(replicates):
    runs = [
        run
        for rate in (0.01, 0.02, 0.05, 0.1)
        for method, top1 in {"ce": 73.0, "kd": 74.6}.items()
        for run in replicates(top1 - 0.3, top1, top1 + 0.2 + rate, method=method, rate=rate)
    ]
    table = build_report(runs)
    tested = [record for record in table.records() if record["verdict"]]
    assert [(record["test"], record["verdict"]) for record in tested] == [("moderated", "better")] * 4


def test_rows_are_compared_with_the_best_where_that_is_asked(replicates):
    runs = [
        *replicates(73.0, 73.2, 72.9, method="ce"),
        *replicates(78.0, 78.2, 78.1, method="simkd"),
        *replicates(78.1, 77.8, 78.3, method="kd"),
        *replicates(90.0, 90.1, 90.2, method="ce", **{"student.name": "resnet110"}),
    ]
    table = build_report(runs, versus_best=True, rows=["student", "method"])
    small = {record["method"]: record for record in table.records() if record["student"] != "resnet110"}
    assert small["simkd"]["best_difference"] is None
    assert small["ce"]["best_difference"] == pytest.approx(-5.066667)
    assert small["ce"]["best_verdict"] == "worse"
    assert small["kd"]["best_verdict"] == "undecided"
    assert small["simkd"]["verdict"] == "better"
    assert any(
        "2 comparisons with ce and, apart from these, the 2 comparisons with the best" in note
        for note in table.notes
    )
    assert not any("best" in column.title for column in build_report(runs).columns)


def test_half_the_confidence_interval_stands_behind_each_difference(replicates):
    runs = [*replicates(73.0, 73.2, 72.9, method="ce"), *replicates(78.0, 78.2, 78.1, method="simkd")]
    table = build_report(runs, intervals=True)
    half_width = table.records()[1]["difference_ci95"]
    (place,) = [place for place, column in enumerate(table.columns) if column.title == "Δ ce"]
    assert table.rows[1][place].text == f"+5.07 ± {half_width:.2f}"
    assert any("half its 95 % confidence interval" in note for note in table.notes)
