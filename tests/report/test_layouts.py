"""Kinds of tables: paper, grid, overview, runs, and what may be chosen in each."""

from typing import Any

import pytest

from kdctl.errors import KdctlError, UsageError
from kdctl.evaluation_records import Evaluation
from kdctl.records import SplitMetrics
from kdctl.report.build import build_report
from kdctl.report.table_format import Mark

PAIRS = (("wrn_40_2", "resnet8x4"), ("resnet32x4", "vgg8"))


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def titles(table):
    return [" ".join(part for part in (column.group, column.title) if part) for column in table.columns]


@pytest.fixture
def methods(make_run):
    """Three methods for two pairs, two seeds each."""
    return [
        make_run(
            top1 + 0.1 * seed + place,
            seed=seed,
            settings={"method.name": method, "student.name": student}
            | ({"teachers": [{"name": teacher, "run": "0123456789abcdef"}]} if method != "ce" else {}),
        )
        for place, (teacher, student) in enumerate(PAIRS)
        for method, top1 in (("ce", 72.0), ("kd", 74.0), ("simkd", 78.0))
        for seed in range(2)
    ]


@pytest.fixture
def rates(make_run):
    """Two methods at three learning rates, whose validation accuracy likes another rate than the test's."""
    return [
        make_run(
            test + 0.2 * seed,
            seed=seed,
            val_top1=val,
            settings={"method.name": method, "optimizer.learning_rate": rate},
        )
        for method in ("ce", "kd")
        for rate, test, val in ((0.01, 70.0, 60.0), (0.05, 72.0, 66.0), (0.1, 73.0, 65.0))
        for seed in range(2)
    ]


def test_paper_has_methods_as_rows_pairs_as_columns_and_the_teacher_last(methods):
    table = build_report(methods, layout="paper")
    assert titles(table) == ["method", "wrn_40_2 → resnet8x4", "resnet32x4 → vgg8"]
    assert texts(table) == [
        ["ce", "72.05 ± 0.07", "73.05 ± 0.07"],
        ["kd", "74.05 ± 0.07", "75.05 ± 0.07"],
        ["simkd", "78.05 ± 0.07", "79.05 ± 0.07"],
        ["teacher", "76.31", "76.31"],
    ]
    assert table.rules == (1, 3)


def test_a_student_alone_stands_in_the_column_of_each_of_its_teachers(make_run):
    runs = [
        make_run(72.0, settings={"method.name": "ce"}),
        make_run(74.0, settings={"method.name": "kd"}),
        make_run(75.0, settings={"method.name": "kd", "teachers": [{"name": "vgg13", "run": "f" * 16}]}),
    ]
    table = build_report(runs, layout="paper")
    assert titles(table)[1:] == ["wrn_40_2 → resnet8x4", "vgg13 → resnet8x4"]
    assert texts(table)[0][1:] == ["72.00 ± —", "72.00 ± —"]


def test_paper_tells_settings_apart_instead_of_averaging_over_them(rates):
    table = build_report(rates, layout="paper")
    assert titles(table)[:2] == ["method", "learning rate"]
    assert len(table.rows) == 7
    assert "§" not in str(texts(table))


def test_grid_spreads_losses_beside_learning_rates(deck_b):
    table = build_report(deck_b, layout="grid", select="best-test")
    assert titles(table) == ["learning rate", "loss cosine", "loss kl"]
    assert len(table.rows) == 5


def test_the_best_setting_is_chosen_on_validation_and_named(rates):
    table = build_report(rates, rows=["method"], best_by="val")
    assert [record["learning_rate"] for record in table.records()] == [0.05, 0.05]
    assert [record["top1_mean"] for record in table.records()] == pytest.approx([72.1, 72.1])
    assert "best setting of each chosen on validation accuracy" in table.caption
    assert "best learning rate" in titles(table)
    assert "Each is the best of 3 settings by mean validation accuracy." in table.notes


def test_settings_that_tie_are_counted_beside_the_one_that_was_chosen(make_run):
    runs = [
        make_run(70.0, val_top1=val, settings={"method.name": method, "optimizer.learning_rate": rate})
        for method, vals in (("ce", (60.0, 66.0, 66.0)), ("kd", (60.0, 65.0, 66.0)))
        for rate, val in zip((0.01, 0.05, 0.1), vals, strict=True)
    ]
    table = build_report(runs, rows=["method"], best_by="val")
    assert [record["learning_rate"] for record in table.records()] == [0.05, 0.1]
    assert "The first of several that tie: ce." in table.notes


def test_settings_of_which_none_has_finished_do_not_tie(make_run):
    runs = [make_run(70.0, val_top1=66.0, settings={"method.name": "ce"})]
    runs += [
        make_run(state="running", settings={"method.name": "kd", "optimizer.learning_rate": rate})
        for rate in (0.05, 0.1)
    ]
    table = build_report(runs, rows=["method"], best_by="val")
    assert not [note for note in table.notes if "tie" in note]


def test_choosing_on_the_test_set_is_called_an_oracle(rates):
    table = build_report(rates, rows=["method"], best_by="test")
    assert [record["learning_rate"] for record in table.records()] == [0.1, 0.1]
    assert "chosen on the test set (oracle)" in table.caption
    assert any("too high" in note for note in table.notes)


def test_without_validation_nothing_is_chosen_on_it(deck_b):
    with pytest.raises(KdctlError, match="no run has a validation accuracy") as caught:
        build_report(deck_b, layout="overview", select="best-test")
    assert "--best-by test" in caught.value.hint


def test_overview_gives_each_method_its_best_rate_and_its_gain(rates):
    table = build_report(rates, layout="overview")
    record = table.records()[1]
    assert (record["student"], record["method"], record["learning_rate"]) == ("resnet8x4", "kd", 0.05)
    assert record["difference"] == pytest.approx(0.0)
    assert "parameters" not in record


def test_runs_has_one_row_for_each_run_finished_or_not(make_run):
    runs = [make_run(75.0), make_run(seed=1, state="running")]
    table = build_report(runs, layout="runs")
    first, second = table.records()
    assert (first["run"], first["epoch"], first["top1"], first["loss"]) == (runs[0].key, 200, 75.0, 1.0)
    assert (first["seconds"], first["method"], first["learning_rate"]) == (5040.0, "simkd", 0.05)
    assert (second["state"], second["top1"]) == ("running", None)


@pytest.mark.parametrize("value", ["val_top1", "top5", "loss"])
def test_the_line_of_the_teachers_tells_test_accuracies_only(rates, value):
    table = build_report(rates, layout="paper", values=["top1", value])
    assert texts(table)[-1][-2:] == ["76.31", "—"]
    assert texts(build_report(rates, layout="paper", values=[value]))[-1][-1] == "—"


def test_nothing_is_chosen_on_validation_for_runs_that_held_nothing_out(rates, make_run):
    rate = "optimizer.learning_rate"
    whole = [make_run(80.0, settings={rate: value, "data.val_fraction": 0.0}) for value in (0.05, 0.1)]
    table = build_report([*rates, *whole], best_by="val")
    assert [record["top1_mean"] for record in table.records()] == pytest.approx([72.1, 72.1])
    assert "Left out, for nothing was held out by which to choose: val fraction 0, simkd." in table.notes
    alone = build_report([*rates, *whole[:1]], best_by="val")
    assert 80.0 in [record["top1_mean"] for record in alone.records()]


def test_values_are_told_as_asked(make_run):
    table = build_report([make_run(75.0), make_run(76.0, seed=1)], values=["top5", "loss", "parameters"])
    (record,) = table.records()
    assert (record["top5_mean"], record["loss_mean"]) == (93.5, 1.0)
    assert texts(table)[0][1:] == ["93.50 ± 0.00", "1.000 ± 0.000", "1.388", "2"]


def test_several_values_share_the_head_of_a_column(methods):
    table = build_report(methods, rows=["method"], columns=["student"], values=["top1", "loss"])
    assert titles(table)[1:3] == ["resnet8x4 top-1 (%)", "resnet8x4 test loss"]
    assert table.records()[0]["vgg8_top1_mean"] == pytest.approx(73.05)


def test_what_was_evaluated_later_can_be_told(make_run):
    run = make_run(75.0)
    found = Evaluation(
        run_key=run.key,
        selection="last",
        split="test",
        metrics=SplitMetrics(top1=75.0, top5=93.0, loss=1.0),
        teacher_agreement=80.5,
        parameters=1,
        checkpoint_sha256="",
        calibration_error=3.6,
        multiply_adds=1_000_000,
    )
    (record,) = build_report(
        [run], values=["agreement", "ece", "flops"], evaluations={run.key: [found]}
    ).records()
    assert (record["agreement_mean"], record["ece_mean"], record["flops_mean"]) == (80.5, 3.6, 2_000_000)
    assert build_report([run], evaluations={run.key: [found]}).records()[0]["flops"] == 2_000_000


@pytest.mark.parametrize("wishes", [{}, {"columns": ["method"]}, {"layout": "paper"}])
def test_what_was_evaluated_of_some_runs_is_no_mean_over_all(make_run, wishes):
    runs = [make_run(75.0, seed=seed) for seed in range(3)]
    evaluations = {
        run.key: [
            Evaluation(
                run_key=run.key,
                selection="last",
                split="test",
                metrics=SplitMetrics(top1=75.0, top5=93.0, loss=1.0),
                teacher_agreement=agreement,
                parameters=1,
                checkpoint_sha256="",
            )
        ]
        for run, agreement in zip(runs, (80.0, 81.0), strict=False)
    }
    table = build_report(runs, values=["top1", "agreement"], evaluations=evaluations, **wishes)
    assert "80.50 ± 0.71 (n = 2)" in texts(table)[0]
    record = table.records()[0]
    assert [value for name, value in record.items() if name.endswith("agreement_n")] == [2]
    whole = {**evaluations, runs[2].key: evaluations[runs[0].key]}
    told = build_report(runs, values=["top1", "agreement"], evaluations=whole, **wishes)
    assert "agreement_n" not in "".join(told.records()[0])


def test_validation_and_test_stand_side_by_side(rates):
    assert "val top-1 (%)" in titles(build_report(rates))


def test_rows_can_be_sorted_by_a_column(rates):
    down = build_report(rates, sort="top1", reverse=True)
    assert [record["learning_rate"] for record in down.records()] == [0.1, 0.1, 0.05, 0.05, 0.01, 0.01]
    with pytest.raises(UsageError, match="no column of the table is called 'tops'") as caught:
        build_report(rates, sort="tops")
    assert "did you mean 'top1'" in caught.value.hint


def test_conditions_keep_the_runs_that_meet_all_of_them(methods):
    table = build_report(methods, where=["student=VGG-8", "method=kd,simkd"], rows=["method"])
    assert [record["method"] for record in table.records()] == ["kd", "simkd"]
    assert len(build_report(methods, where=["teacher=none"]).rows) == 2
    with pytest.raises(UsageError, match="no run has method=dkd") as caught:
        build_report(methods, where=["method=dkd"])
    assert "ce, kd, simkd" in caught.value.hint
    with pytest.raises(UsageError, match="is no field=value"):
        build_report(methods, where=["method"])
    with pytest.raises(KdctlError, match="no run meets all of"):
        build_report(methods, where=["teacher=none", "method=kd"])


def test_the_best_is_marked_where_the_test_tells_it_from_the_others(make_run):
    tops = {
        "ce": (72.0, 72.1, 72.2),
        "kd": (74.0, 74.1, 74.2),
        "at": (78.0, 78.1, 78.2),
        "simkd": (78.05, 78.1, 78.2),
    }
    runs = [
        make_run(top1, seed=seed, settings={"method.name": method})
        for method, values in tops.items()
        for seed, top1 in enumerate(values)
    ]
    table = build_report(runs, mark_best=True)
    assert [record["top1_mark"] for record in table.records()] == [None, "second", "best", "best"]
    assert [row[1].mark for row in build_report(runs).rows] == [Mark.NONE] * 4


def test_a_student_alone_that_is_the_best_is_marked_beside_those_that_it_beats(make_run):
    def taught(method: str, teacher: str, top1: float) -> list[Any]:
        settings = {"method.name": method, "teachers": [{"name": teacher, "run": teacher}] if teacher else []}
        return [make_run(top1 + seed / 10, seed=seed, settings=settings) for seed in range(3)]

    def marks(*groups: list[Any]) -> list[str | None]:
        table = build_report([run for group in groups for run in group], mark_best=True)
        return [record.get("top1_mark") for record in table.records()]

    alone, weak, strong = taught("ce", "", 78.0), taught("kd", "vgg13", 74.0), taught("kd", "vgg19", 82.0)
    assert marks(alone, weak) == ["best", "second"]
    assert marks(alone, strong) == ["second", "best"]
    assert sorted(map(str, marks(alone, weak, strong))) == ["None", "best", "second"]


def test_what_scatters_widely_is_not_among_the_best_below_one_that_is_worse(make_run):
    tops = {"kd": (74.0, 74.1, 74.2), "at": (78.0, 78.1, 78.2), "simkd": (50.0, 70.0, 90.0)}
    runs = [
        make_run(top1, seed=seed, settings={"method.name": method})
        for method, values in tops.items()
        for seed, top1 in enumerate(values)
    ]
    table = build_report(runs, mark_best=True)
    marks = {record["method"]: record["top1_mark"] for record in table.records()}
    assert marks == {"at": "best", "kd": "second", "simkd": "second"}
    assert any(note.startswith("Bold: the best") for note in table.notes)


def test_nothing_is_marked_where_nothing_is_told_apart(make_run):
    runs = [make_run(75.0), make_run(70.0, settings={"method.name": "kd"})]
    assert all("top1_mark" not in record for record in build_report(runs, mark_best=True).records())


def test_an_unknown_layout_or_value_names_the_nearest(deck_b):
    for wishes, near in (({"layout": "papr"}, "'paper'"), ({"values": ["top2"]}, "'top5'")):
        with pytest.raises(UsageError) as caught:
            build_report(deck_b, select="best-test", **wishes)
        assert f"did you mean {near}" in caught.value.hint


def test_all_diverged_names_what_to_change(make_run):
    runs = [make_run(seed=seed, state="diverged", reason="non-finite loss in epoch 3") for seed in range(2)]
    with pytest.raises(KdctlError, match=r"no run has finished: 2 diverged\.") as caught:
        build_report(runs)
    assert "smaller learning rate" in caught.value.hint


@pytest.mark.parametrize(
    "layout",
    [{"layout": "paper"}, {"layout": "runs"}, {"columns": ["learning_rate"]}, {"values": ["top1", "loss"]}],
)
def test_what_a_layout_has_no_place_for_is_refused_or_where_a_recipe_says_it_told(layout, rates, make_sweep):
    with pytest.raises(UsageError, match="no place for intervals of differences and comparisons"):
        build_report(rates, intervals=True, versus_best=True, **layout)
    sweep = make_sweep(rates, report={"intervals": True})
    assert build_report(rates, sweep, **layout).notes[-1] == (
        "The recipe's [report] also asks for intervals of differences: this table has no place for that."
    )
    assert not [note for note in build_report(rates, sweep).notes if "no place" in note]


@pytest.mark.parametrize("asked", [{"columns": ["learning_rate"]}, {"best_by": "test"}, {"mark_best": True}])
def test_a_table_of_single_runs_has_no_place_for_what_is_told_of_means(asked, rates, make_sweep):
    with pytest.raises(UsageError, match="no place for"):
        build_report(rates, layout="runs", **asked)
    sweep = make_sweep(rates, report={"layout": "runs", **asked})
    assert "no place" in build_report(rates, sweep).notes[-1]
