"""How a sweep ends: with its best configurations."""

from kdctl.records import Selection
from kdctl.report.leaders import leading_lines


def test_the_best_three_of_a_pair_are_named_best_first(make_run):
    runs = [
        make_run(top1 + seed, seed=seed, settings={"optimizer.learning_rate": rate})
        for rate, top1 in ((0.01, 70.0), (0.05, 74.0), (0.1, 73.0), (0.2, 60.0))
        for seed in range(2)
    ]
    assert leading_lines(runs) == [
        "best by mean test accuracy (oracle: nothing was held out):",
        "  learning rate 0.05: test 74.50 ± 0.71 % (n = 2)",
        "  learning rate 0.1: test 73.50 ± 0.71 % (n = 2)",
        "  learning rate 0.01: test 70.50 ± 0.71 % (n = 2)",
    ]


def test_what_was_held_out_decides(make_run):
    runs = [
        make_run(test, val_top1=val, settings={"optimizer.learning_rate": rate})
        for rate, test, val in ((0.01, 75.0, 60.0), (0.05, 74.0, 66.0))
    ]
    first, best, _ = leading_lines(runs)
    assert first == "best by mean validation accuracy:"
    assert best == "  learning rate 0.05: val 66.00 %, test 74.00 ± — % (n = 1)"


def test_another_epoch_than_the_last_is_named(make_run):
    runs = [
        make_run(test, val_top1=val, rules=["best-val"], settings={"optimizer.learning_rate": rate})
        for rate, test, val in ((0.01, 75.0, 60.0), (0.05, 74.0, 66.0))
    ]
    assert leading_lines(runs) == []
    first, best, _ = leading_lines(runs, Selection.BEST_VAL)
    assert first == "best by mean validation accuracy, best validation epoch:"
    assert best == "  learning rate 0.05: val 66.00 %, test 74.00 ± — % (n = 1)"


def test_one_configuration_is_no_choice(make_run):
    assert leading_lines([make_run(75.0, seed=seed) for seed in range(2)]) == []


def test_a_student_that_teaches_others_competes_with_its_like(make_run):
    alone = {"method.name": "ce", "student.name": "wrn_40_2"}
    teachers = [
        make_run(top1, settings={**alone, "optimizer.learning_rate": rate})
        for rate, top1 in ((0.05, 80.0), (0.1, 81.0))
    ]
    student = make_run(75.0, settings={"teachers.0.run": teachers[0].key})
    lines = leading_lines([*teachers, student])
    assert lines[1:] == [
        "  wrn_40_2, ce, learning rate 0.1: test 81.00 ± — % (n = 1)",
        "  wrn_40_2, ce, learning rate 0.05: test 80.00 ± — % (n = 1)",
        "  resnet8x4, simkd, learning rate 0.05: test 75.00 ± — % (n = 1)",
    ]


def test_other_data_and_other_lengths_do_not_compete(make_run):
    runs = [
        make_run(70.0 + place, settings={"data_fingerprint": images, "optimizer.learning_rate": rate})
        for place, (images, rate) in enumerate((i, r) for i in ("a" * 16, "b" * 16) for r in (0.05, 0.1))
    ]
    tops = [line.partition("test ")[2].partition(" ")[0] for line in leading_lines(runs)[1:]]
    assert tops == ["71.00", "70.00", "73.00", "72.00"]
