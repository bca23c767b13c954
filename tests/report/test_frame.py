from kdctl.records import Selection
from kdctl.report.frame import OWN_COLUMNS, run_frame


def test_one_row_for_each_run_with_what_varies(deck_b):
    frame = run_frame(deck_b, Selection.BEST_TEST)
    assert len(frame) == 30
    assert list(frame.columns) == [
        "data",
        "teacher",
        "student",
        "protocol",
        "method",
        "method.loss",  # 'loss' is the test loss
        "learning_rate",
        *OWN_COLUMNS,
    ]
    assert frame.loc[frame.learning_rate == 0.05, "top1"].max() == 75.25
    assert set(frame.teacher) == {"wrn_40_2"}


def test_a_group_of_the_frame_gives_the_table_s_std(deck_b):
    frame = run_frame(deck_b, Selection.BEST_TEST)
    std = frame.groupby(["method.loss", "learning_rate"]).top1.std()
    assert round(std["cosine", 0.001], 3) == 0.217


def test_unfinished_and_diverged_runs_are_there_without_numbers(make_run):
    runs = [make_run(75.0), make_run(seed=1, state="planned"), make_run(12.0, seed=2, state="diverged")]
    frame = run_frame(runs)
    assert list(frame.state) == ["finished", "planned", "diverged"]
    assert frame.top1.notna().tolist() == [True, False, False]
    assert frame.loc[0, "parameters"] == 1_387_748


def test_no_runs_give_an_empty_frame_with_its_columns():
    frame = run_frame([])
    assert frame.empty
    assert set(OWN_COLUMNS) <= set(frame.columns)
