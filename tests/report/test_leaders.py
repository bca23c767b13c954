"""How a sweep ends: with its best configurations."""

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


def test_a_teacher_is_no_competitor_and_one_configuration_no_choice(make_run):
    teacher = make_run(80.0, settings={"method.name": "ce", "student.name": "wrn_40_2"})
    student = make_run(75.0, settings={"teachers": [{"name": "wrn_40_2", "run": teacher.key}]})
    assert leading_lines([teacher, student]) == []
