"""What a table is about: the data that were used, and what may stand beside it."""

import csv
import io

import pytest

from kdctl.report.build import build_report
from kdctl.report.table_format import report_formats

FEW = {"data.num_classes": 4, "data.samples_per_class": 60}
TOTALS = {"cifar100": 100}
SIMKD = {
    "match": {"method.name": "simkd"},
    "top1": 78.08,
    "std": 0.15,
    "num_trials": 4,
    "protocol": "simkd",
    "select": "last",
    "source": "arXiv:2203.14001",
}


def replicates(make_run, *tops, **settings):
    return [make_run(top1, seed=seed, settings=settings) for seed, top1 in enumerate(tops)]


def test_the_caption_says_which_classes_and_images_were_used(make_run):
    runs = replicates(make_run, 25.0, 26.0, **FEW, **{"data.val_fraction": 0.1})
    caption = build_report(runs, totals=TOTALS).caption
    assert caption.startswith(
        "Top-1 test accuracy (%) on cifar100 (4 of 100 classes, 60 images each, 10 % held out), "
        "wrn_40_2 → resnet8x4, protocol simkd, 240 epochs; last epoch"
    )


def test_all_classes_of_a_data_set_are_no_choice_of_classes(make_run):
    caption = build_report(replicates(make_run, 78.0, **{"data.num_classes": 100}), totals=TOTALS).caption
    assert " on cifar100, wrn_40_2" in caption


@pytest.mark.parametrize("wishes", [{}, {"layout": "runs"}])
def test_each_of_several_data_sets_has_its_own_number_of_classes(make_run, wishes):
    runs = [make_run(50.0, settings=FEW | {"data.name": name}) for name in ("cifar100", "tinyimagenet")]
    table = build_report(runs, totals=TOTALS | {"tinyimagenet": 200}, **wishes)
    assert table.caption.startswith("Top-1 test accuracy (%) on 4 classes, 60 images each, ")
    assert any("different data sets (cifar100, tinyimagenet)" in note for note in table.notes)
    alone = build_report(runs[:1], totals=TOTALS, rows=["data", "method"])
    assert "on 4 of 100 classes, 60 images each, " in alone.caption


def test_single_runs_say_in_what_they_are_about_different_things(make_run):
    settings = ({"protocol": "crd", "schedule.epochs": 60}, {"schedule.epochs": 120})
    both = [make_run(75.0, settings=each) for each in settings]
    table = build_report(both, layout="runs")
    assert {"protocol", "epochs"} <= {column.title for column in table.columns}
    assert any("protocols (crd, simkd), numbers of epochs (60, 120)" in note for note in table.notes)


def test_where_the_total_is_not_known_only_what_was_used_is_said(make_run):
    assert "(4 classes, 60 images each)" in build_report(replicates(make_run, 25.0, **FEW)).caption
    one = build_report(replicates(make_run, 25.0, **{"data.samples_per_class": 60})).caption
    assert "(60 images of each class)" in one


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("data.num_classes", (4, 10), "numbers of classes (4, 10)"),
        ("data.samples_per_class", (60, 500), "numbers of images (60, 500)"),
        ("data.val_fraction", (0.0, 0.2), "shares held out for validation (0, 0.2)"),
        ("schedule.epochs", (60, 240), "numbers of epochs (60, 240)"),
        ("protocol", ("crd", "simkd"), "protocols (crd, simkd)"),
    ],
)
@pytest.mark.parametrize("wishes", [{}, {"rows": ["method"]}, {"columns": ["method"]}])
def test_rows_about_different_things_are_told_apart_and_noted(make_run, field, values, words, wishes):
    runs = [make_run(70.0 + place, settings={field: value}) for place, value in enumerate(values)]
    table = build_report(runs, **wishes)
    assert len(table.rows) == 2
    assert any(f"Rows come from different {words}" in note for note in table.notes)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (FEW, "4 of 100 classes, 60 images each"),
        ({"data.val_fraction": 0.2}, "20 % held out"),
        ({"student.weights": "413e2f0f23248b6b"}, "started from weights"),
        ({"protocol": "crd"}, "protocol crd, not simkd"),
        ({"schedule.epochs": 2}, "2 of 240 epochs"),
    ],
)
def test_a_published_number_about_something_else_gets_no_difference(make_run, make_sweep, settings, reason):
    runs = replicates(make_run, 25.0, 26.0, **settings)
    table = build_report(runs, make_sweep(runs, reported=[SIMKD]), totals=TOTALS)
    (record,) = table.records()
    assert record["published_mean"] == 78.08
    assert record["published_verdict"] == "not comparable"
    assert record["published_unlike"] == reason
    assert "published_difference" not in record
    for entry in report_formats.entries():
        written = entry.item(table)
        assert "not comparable" in written
        assert "53.0" not in written


def test_a_published_number_beside_several_rows_does_not_tell_which_setting_it_is_of(make_run, make_sweep):
    runs = [
        run
        for reduction in (2, 4)
        for run in replicates(make_run, 77.0, 78.0, **{"method.projector.reduction": reduction})
    ]
    note = "A published number beside several rows does not tell which reduction it is of."
    assert note in build_report(runs, make_sweep(runs, reported=[SIMKD])).notes
    told = SIMKD | {"match": {"method": "simkd", "reduction": 2}}
    assert note not in build_report(runs, make_sweep(runs, reported=[told])).notes


def test_what_keeps_all_rows_from_a_comparison_is_said_once(make_run, make_sweep):
    runs = [
        run
        for reduction in (2, 4)
        for run in replicates(
            make_run, 77.0, 78.0, **{"method.projector.reduction": reduction, "protocol": "crd"}
        )
    ]
    table = build_report(runs, make_sweep(runs, reported=[SIMKD]))
    assert "Not comparable with what is published: protocol crd, not simkd." in table.notes
    assert {row[-1].text for row in table.rows} == {"not comparable"}
    assert {record["published_unlike"] for record in table.records()} == {"protocol crd, not simkd"}


def test_a_protocol_in_words_of_its_own_is_quoted(make_run, make_sweep):
    runs = replicates(make_run, 25.0, 26.0)
    table = build_report(runs, make_sweep(runs, reported=[SIMKD | {"protocol": "simkd, but probably of KD"}]))
    assert table.records()[0]["published_unlike"] == "protocol simkd, not 'simkd, but probably of KD'"
    assert any("(protocol 'simkd, but probably of KD', " in note for note in table.notes)


def test_a_number_that_names_the_part_that_was_used_may_stand_beside_it(make_run, make_sweep):
    runs = replicates(make_run, 67.0, 67.4, **{"data.val_fraction": 0.2})
    number = SIMKD | {"match": {"method": "simkd", "val_fraction": 0.2}, "top1": 67.0}
    (record,) = build_report(runs, make_sweep(runs, reported=[number])).records()
    assert record["published_difference"] == pytest.approx(0.2)


def test_a_number_may_say_for_how_long_was_trained(make_run, make_sweep):
    runs = replicates(make_run, 78.0, 78.2, **{"schedule.epochs": 120})
    table = build_report(runs, make_sweep(runs, reported=[SIMKD | {"epochs": 120}]))
    assert table.records()[0]["published_difference"] == pytest.approx(0.02)


def test_a_row_that_averages_over_methods_or_students_is_compared_with_nothing(make_run):
    runs = [
        make_run(top1, seed=seed, settings={"method.name": method, "student.name": student})
        for method, top in (("ce", 70.0), ("kd", 72.0), ("simkd", 74.0))
        for student in ("resnet8", "vgg8")
        for seed, top1 in enumerate((top, top + 0.2))
    ]
    assert "difference" not in build_report(runs, rows=["learning_rate"]).records()[0]
    by_method = build_report(runs, rows=["method"])
    assert all("difference" not in record for record in by_method.records())
    by_student = build_report(runs, rows=["student", "method"]).records()
    assert [record["difference"] for record in by_student if record["method"] == "kd"] == [2.0, 2.0]


def test_a_baseline_trained_for_another_length_is_none(make_run):
    runs = [make_run(70.0, settings={"method.name": "ce", "schedule.epochs": 60}), make_run(75.0)]
    assert all("difference" not in record for record in build_report(runs).records())


def test_every_format_says_over_what_a_cell_averages(deck_b):
    for wishes in ({"rows": ["loss"]}, {"columns": ["loss"], "rows": ["method"]}):
        table = build_report(deck_b, select="best-test", **wishes)
        for entry in report_formats.entries():
            assert "learning rate (0.005, 0.1, 0.001, 0.05, 0.01)" in entry.item(table)


def test_csv_says_what_each_row_lacks(make_run):
    runs = [make_run(75.0), make_run(seed=1, state="planned"), make_run(seed=2, state="diverged")]
    for wishes in ({}, {"columns": ["method"]}):
        (row,) = csv.DictReader(io.StringIO(report_formats.get("csv").item(build_report(runs, **wishes))))
        counts = {name.removeprefix("simkd_"): value for name, value in row.items() if "num_" in name}
        assert counts["num_diverged"] == "1"
        assert counts["num_missing"] == "1"


def test_a_student_that_started_from_weights_is_named_where_no_column_tells(make_run):
    started = {"student.name": "resnet14", "student.weights": "413e2f0f23248b6b"}
    runs = [make_run(70.0), make_run(71.0, settings=started)]
    notes = build_report(runs).notes
    assert "Not from random weights: resnet14 (from 413e2f0f)." in notes
    told = build_report([make_run(70.0), make_run(71.0, settings={"student.weights": "413e2f0f23248b6b"})])
    assert "weights" in [column.title for column in told.columns]
    assert not any("random weights" in note for note in told.notes)
    alone = build_report([make_run(71.0, settings=started)]).notes
    assert "Not from random weights: simkd (from 413e2f0f)." in alone


@pytest.fixture
def folders(make_run):
    """Two folders of one's own under one name, two methods at two rates, two seeds; the second is easier."""
    return [
        make_run(
            top1 + gain + 0.2 * seed,
            seed=seed,
            val_top1=top1 + 10 * rate,
            settings={
                "method.name": method,
                "optimizer.learning_rate": rate,
                "data": {"name": "imagefolder", "path": path},
                "data_fingerprint": path * 2,
            },
        )
        for path, top1 in (("birds", 60.0), ("cars", 90.0))
        for method, gain in (("ce", 0.0), ("kd", 5.0))
        for rate in (0.05, 0.1)
        for seed in range(2)
    ]


@pytest.mark.parametrize("wishes", [{"rows": ["method"]}, {"best_by": "val"}, {"layout": "overview"}])
def test_folders_of_the_same_name_are_never_averaged_and_never_chosen_among(folders, wishes):
    table = build_report(folders, **wishes)
    found = [(record["path"], record["method"], record["top1_mean"]) for record in table.records()]
    assert found == [
        ("birds", "ce", pytest.approx(60.1)),
        ("birds", "kd", pytest.approx(65.1)),
        ("cars", "ce", pytest.approx(90.1)),
        ("cars", "kd", pytest.approx(95.1)),
    ]
    assert any("Rows come from different folders (birds, cars)" in note for note in table.notes)


def test_the_best_is_marked_within_each_folder(folders):
    chosen = [run for run in folders if run.plan["optimizer"]["learning_rate"] == 0.1]
    records = build_report(chosen, mark_best=True).records()
    best = {(record["path"], record["method"]) for record in records if record["top1_mark"] == "best"}
    assert best == {("birds", "kd"), ("cars", "kd")}


def test_a_paper_has_a_column_for_each_folder(folders):
    table = build_report(folders, layout="paper", best_by="val")
    assert [column.group for column in table.columns[1:]] == [
        "path birds, wrn_40_2 →",
        "path cars, wrn_40_2 →",
    ]


def test_images_that_changed_in_their_folder_are_told_apart_by_their_fingerprint(make_run):
    data = {"data": {"name": "imagefolder", "path": "birds"}}
    runs = [
        make_run(top1, settings=data | {"data_fingerprint": f"{digit}123456789abcdef"})
        for digit, top1 in (("a", 60.0), ("b", 80.0))
    ]
    table = build_report(runs, rows=["method"])
    assert [record["top1_mean"] for record in table.records()] == [60.0, 80.0]
    assert any("different images (a1234567, b1234567)" in note for note in table.notes)


def test_a_folder_that_was_moved_has_the_same_images(make_run):
    runs = [
        make_run(60.0 + place, settings={"data": {"name": "imagefolder", "path": path}, "method.name": name})
        for place, (path, name) in enumerate((("birds", "ce"), ("/disk2/birds", "kd")))
    ]
    assert build_report(runs, rows=["method"]).columns[0].title == "method"


def test_a_mean_over_versions_of_the_code_names_them(make_run):
    runs = [make_run(70.0, settings={"method.numerics": numerics}) for numerics in (1, 2)]
    assert any("averaged over numerics (1, 2)" in note for note in build_report(runs, rows=["method"]).notes)


def test_images_whose_names_have_no_plain_letters_keep_their_columns_in_csv(make_run):
    runs = [
        make_run(top1, settings={"data": {"name": "imagefolder", "path": path}, "data_fingerprint": path})
        for path, top1 in (("/vögel", 60.0), ("/bücher", 80.0))
    ]
    (record,) = build_report(runs, rows=["method"], columns=["path"]).records()
    assert [value for name, value in record.items() if "mean" in name] == [60.0, 80.0]
