"""Tables as readers get them."""

import math
import statistics

import pytest

from kdctl.errors import KdctlError, UsageError
from kdctl.report.build import build_report
from kdctl.report.table_format import Table


def column(table: Table, title: str) -> list[str]:
    place = [column.title for column in table.columns].index(title)
    return [row[place].text for row in table.rows]


def titles(table: Table) -> list[str]:
    return [column.title for column in table.columns]


def test_the_cosine_table_of_deck_b_reproduces_from_its_runs(deck_b):
    runs = [run for run in deck_b if run.plan["method"]["loss"] == "cosine"]
    records = build_report(runs, select="best-test").records()
    assert [record["learning_rate"] for record in records] == [0.001, 0.005, 0.01, 0.05, 0.1]
    # the deck prints 70.89 ± 0.21, 73.48 ± 0.44, 74.49 ± 0.17, 74.95 ± 0.30, 75.05 ± 0.34, partly truncated
    assert [record["top1_mean"] for record in records] == pytest.approx(
        [70.89, 73.48, 74.493, 74.947, 75.057], abs=1e-3
    )
    assert [record["top1_std"] for record in records] == pytest.approx(
        [0.217, 0.442, 0.169, 0.304, 0.343], abs=1e-3
    )
    assert {record["n"] for record in records} == {3}


def test_the_kl_table_of_deck_b_is_what_its_runs_say_not_what_it_printed(deck_b):
    table = build_report(deck_b, rows=["lr"], columns=["loss"], select="best-test")
    assert column(table, "loss kl") == [
        "70.91 ± 0.27",
        "73.28 ± 0.29",
        "74.18 ± 0.04",
        "75.10 ± 0.16",
        "74.90 ± 0.54",
    ]
    assert table.notes == ("n = 3 in every cell.",)


def test_the_caption_says_data_pair_selection_and_spread(deck_b):
    caption = build_report(deck_b, select="best-test", spread="sem").caption
    assert caption == (
        "Top-1 test accuracy (%) on cifar100, simkd, wrn_40_2 → resnet8x4, protocol simkd, 240 epochs; "
        "best test epoch (oracle: selected on the test set); mean ± standard error of the mean"
    )


def test_raw_columns_are_named_after_the_spread(deck_b):
    assert "top1_ci95" in build_report(deck_b, select="best-test", spread="ci95").records()[0]


def test_a_single_run_shows_its_mean_and_a_dash(make_run):
    table = build_report([make_run(18.36)])
    assert column(table, "top-1 (%)") == ["18.36 ± —"]
    assert column(table, "n") == ["1"]
    assert table.records()[0]["top1_std"] is None


def test_missing_seeds_show_in_n_and_in_a_note(make_run):
    table = build_report([make_run(75.0), make_run(75.2, seed=1), make_run(seed=2, state="planned")])
    assert column(table, "top-1 (%)") == ["75.10 ± 0.14"]
    assert column(table, "n") == ["2 of 3"]
    assert "Still missing: simkd: 3 runs, 1 planned." in table.notes


@pytest.mark.parametrize("columns", [(), ("learning_rate",)])
def test_programs_can_tell_dropped_runs_from_missing_ones(make_run, columns):
    states = ["finished", "pruned", "pruned", "failed", "planned"]
    runs = [
        make_run(75.0 if state == "finished" else None, seed=seed, state=state)
        for seed, state in enumerate(states)
    ]
    (record,) = build_report(runs, rows=["method"], columns=columns).records()
    counts = {part: value for part, value in record.items() if part.endswith(("_dropped", "_failed"))}
    assert list(counts.values()) == [2, 1]
    assert not any("diverged" in part for part in record)


def test_many_runs_that_are_not_in_the_means_are_named_by_a_command(make_run, make_sweep):
    runs = [make_run(75.0, settings={"optimizer.learning_rate": 9.0})]
    for rate in range(1, 8):
        settings = {"optimizer.learning_rate": float(rate)}
        runs.append(make_run(seed=0, state="pruned", reason=f"it trails by {rate}", settings=settings))
        runs.append(make_run(seed=1, state="planned", settings=settings))
    sweep = make_sweep(runs)
    lost, missing = [note for note in build_report(runs, sweep).notes if "more: " in note]
    assert lost.startswith("Not in the means: ")
    assert lost.count("it trails by") == 5
    assert lost.endswith(f"; and 2 more: `kdctl runs list --sweep {sweep.name} --state pruned --format csv`.")
    assert missing.endswith(
        f"; and 2 more: `kdctl runs list --sweep {sweep.name} --state planned --format csv`."
    )


def test_of_many_reasons_in_one_row_two_are_told(make_run):
    runs = [make_run(75.0), *(make_run(seed=n, state="failed", reason=f"reason {n}") for n in range(1, 5))]
    note = next(note for note in build_report(runs, rows=["method"]).notes if "failed" in note)
    assert note == "Not in the means: simkd: 5 runs, 4 failed (reason 1; reason 2; ...)."


def test_diverged_and_failed_runs_are_counted_and_never_averaged(make_run):
    runs = [
        make_run(75.0),
        make_run(1.0, seed=1, state="diverged", reason="non-finite loss in epoch 3"),
        make_run(seed=2, state="failed", reason="out of memory"),
    ]
    table = build_report(runs)
    assert column(table, "top-1 (%)") == ["75.00 ± —"]
    assert table.notes == (
        "Not in the means: simkd: 3 runs, 1 diverged, 1 failed (non-finite loss in epoch 3; out of memory).",
    )


def test_a_configuration_whose_runs_all_failed_keeps_its_row(make_run):
    failed = [make_run(seed=seed, state="failed", settings={"method.name": "kd"}) for seed in range(2)]
    table = build_report([make_run(75.0), *failed])
    assert column(table, "method") == ["simkd", "kd"]
    assert column(table, "top-1 (%)") == ["75.00 ± —", "—"]
    assert column(table, "n") == ["1", "0 of 2"]


def test_when_all_runs_failed_the_error_repeats_their_reasons(make_run):
    runs = [make_run(seed=seed, state="failed", reason="out of memory") for seed in range(2)]
    with pytest.raises(KdctlError, match=r"no run has finished: 2 failed\.") as caught:
        build_report(runs)
    assert "out of memory" in caught.value.hint


def test_nothing_to_report_says_how_to_get_something():
    with pytest.raises(KdctlError, match="there are no runs") as caught:
        build_report([])
    assert "kdctl train" in caught.value.hint


def test_a_selection_that_no_run_has_names_those_they_have(make_run):
    with pytest.raises(KdctlError, match="no finished run has a 'best-val' epoch") as caught:
        build_report([make_run(75.0)], select="best-val")
    assert "best-test, last" in caught.value.hint


@pytest.mark.parametrize(
    ("wish", "near"),
    [
        ({"rows": ["metod"]}, "'method'"),
        ({"columns": ["studnt"]}, "'student'"),
        ({"select": "bestest"}, "'best-test'"),
        ({"spread": "popularity"}, "'population'"),
    ],
)
def test_a_wrong_wish_is_answered_with_the_nearest_right_one(make_run, wish, near):
    with pytest.raises(UsageError) as caught:
        build_report([make_run(75.0)], **wish)
    assert f"did you mean {near}" in caught.value.hint


def test_the_sweep_s_report_table_gives_rows_columns_and_selection(deck_b, make_sweep):
    sweep = make_sweep(
        deck_b, report={"rows": ["optimizer.learning_rate"], "columns": ["loss"], "select": "best-test"}
    )
    assert titles(build_report(deck_b, sweep)) == ["learning rate", "loss cosine", "loss kl"]
    assert titles(build_report(deck_b, sweep, rows=["loss"], columns=["lr"]))[0] == "loss"


def test_chosen_rows_that_pool_configurations_say_so(deck_b):
    table = build_report(deck_b, rows=["loss"], select="best-test")
    assert column(table, "n") == ["15", "15"]
    assert table.notes[0] == (
        "§ pools several configurations: averaged over learning rate (0.005, 0.1, 0.001, 0.05, 0.01). "
        "The ± is not that of seeds alone."
    )
    assert all(text.endswith("§") for text in column(table, "top-1 (%)"))
    assert table.records()[0]["pooled_over"] == "learning rate (0.005, 0.1, 0.001, 0.05, 0.01)"


def test_a_field_stands_where_it_is_asked_for_and_not_where_the_recipe_has_it_too(make_run, make_sweep):
    runs = [
        make_run(70.0, settings={"method.name": method, "optimizer.learning_rate": rate})
        for method in ("ce", "kd")
        for rate in (0.05, 0.1)
    ]
    sweep = make_sweep(runs, report={"rows": ["learning_rate"], "columns": ["method"]})
    rates = build_report(runs, sweep, columns=["learning_rate"])
    assert [column.title for column in rates.columns] == ["method", "learning rate 0.05", "learning rate 0.1"]
    methods = build_report(runs, sweep, rows=["method"])
    assert methods.records()[0]["pooled_over"] == "learning rate (0.05, 0.1)"
    both = build_report(runs, sweep, rows=["student"])
    assert both.records()[0]["ce_n"] == 2


def test_a_mean_over_a_student_with_and_without_a_teacher_says_so(make_run):
    runs = [make_run(70.0, settings={"method.name": method}) for method in ("ce", "kd")]
    (note, *_) = build_report(runs, rows=["student"]).notes
    assert "averaged over method (ce, kd), teacher (—, wrn_40_2)" in note


def test_protocols_never_mix_unseen(make_run):
    runs = [make_run(75.0), make_run(73.0, settings={"protocol": "crd"})]
    for table in (build_report(runs), build_report(runs, rows=["method"])):
        assert column(table, "protocol") == ["simkd", "crd"]
        assert any(note.startswith("Rows come from different protocols (simkd, crd)") for note in table.notes)


def test_teachers_trained_for_the_sweep_get_a_line_and_no_row(make_run, make_sweep):
    students = [make_run(75.0, seed=seed) for seed in range(2)]
    teachers = [
        make_run(top1, seed=seed, settings={"method.name": "ce", "student.name": "wrn_40_2"})
        for seed, top1 in enumerate((76.2, 76.4))
    ]
    table = build_report([*teachers, *students], make_sweep(students, teachers=teachers))
    assert len(table.rows) == 1
    assert table.notes[-1] == "Teacher wrn_40_2: 76.30 ± 0.14 (n = 2)."


def test_teachers_of_one_name_are_told_apart(make_run, make_sweep):
    alone = {"method.name": "ce", "student.name": "wrn_40_2"}
    teachers = [
        make_run(top1, settings={**alone, "schedule.epochs": epochs})
        for epochs, top1 in ((60, 70.0), (240, 76.0))
    ]
    students = [make_run(75.0, settings={"teachers.0.run": teacher.key}) for teacher in teachers]
    notes = build_report([*teachers, *students], make_sweep(students, teachers=teachers)).notes
    assert "Teacher wrn_40_2, epochs 60: 70.00 ± — (n = 1)." in notes
    assert "Teacher wrn_40_2, epochs 240: 76.00 ± — (n = 1)." in notes


def test_teachers_alone_are_shown_as_rows(make_run, make_sweep):
    teachers = [make_run(76.2, settings={"method.name": "ce", "student.name": "wrn_40_2"})]
    assert len(build_report(teachers, make_sweep([], teachers=teachers)).rows) == 1


def test_a_report_of_some_runs_names_their_teachers_and_no_others(make_run, make_sweep):
    large, small, other = (
        make_run(top1, settings={"method.name": "ce", "student.name": name})
        for name, top1 in (("resnet110", 80.0), ("resnet56", 78.0), ("vgg13", 75.0))
    )
    taught = make_run(79.0, settings={"student.name": "resnet56", "teachers.0.run": large.key})
    students = [
        make_run(top1, settings={"student.name": name, "teachers.0.run": teacher.key})
        for name, top1, teacher in (("resnet8", 70.0, taught), ("vgg8", 71.0, other))
    ]
    teachers = [large, small, other, taught]
    table = build_report(
        [*teachers, *students], make_sweep(students, teachers=teachers), where=["student=resnet8"]
    )
    lines = [note.partition(":")[0] for note in table.notes if note.startswith("Teacher")]
    assert lines == ["Teacher resnet110", "Teacher resnet56"]


def test_parameters_are_those_of_what_is_shipped(make_run):
    table = build_report([make_run(75.0)])
    assert column(table, "teacher (%)") == ["76.31"]
    assert column(table, "params (M)") == ["1.388"]
    assert column(table, "pruned (%)") == ["38.46"]
    assert table.records()[0]["parameters"] == 1_387_748


def test_unequal_counts_show_in_each_cell_of_a_pivot(make_run):
    runs = [make_run(75.0), make_run(75.4, seed=1), make_run(74.0, settings={"method.name": "kd"})]
    table = build_report(runs, columns=["method"])
    assert [cell.text for cell in table.rows[0]] == ["75.20 ± 0.28 (2)", "74.00 ± — (1)"]
    assert table.notes[0] == "n in brackets."


def test_a_std_far_from_its_neighbours_is_pointed_out(make_run):
    tops = {"at": (75.0, 75.2), "kd": (74.0, 74.3), "simkd": (60.0, 70.0)}
    runs = [
        make_run(top1, seed=seed, settings={"method.name": method})
        for method, values in tops.items()
        for seed, top1 in enumerate(values)
    ]
    warnings = [note for note in build_report(runs).notes if note.startswith("Warning")]
    assert len(warnings) == 1
    assert "the std of simkd (7.07) is 40 times" in warnings[0]


@pytest.mark.parametrize("num_rows", [3, 4, 9])
def test_the_neighbours_of_a_row_are_all_others(make_run, num_rows):
    spreads = [0.1 * (place + 1) for place in range(num_rows - 1)] + [70.0]
    runs = [
        make_run(
            50.0 + sign * spread / 2, seed=sign, settings={"optimizer.learning_rate": 0.01 * (place + 1)}
        )
        for place, spread in enumerate(spreads)
        for sign in (-1, 1)
    ]
    (warning,) = [note for note in build_report(runs).notes if note.startswith("Warning")]
    median = statistics.median(spreads[:-1]) / math.sqrt(2)
    assert f"the median of the other rows' ({median:.2f})" in warning
