"""What stands below a table."""

from kdctl.report.build import build_report


def test_a_warning_about_scattered_accuracies_stands_where_these_are_shown(make_run):
    tops = {"kd": (74.0, 74.1), "at": (78.0, 78.1), "dkd": (76.0, 76.1), "simkd": (50.0, 90.0)}
    runs = [
        make_run(top1, seed=seed, settings={"method.name": method})
        for method, values in tops.items()
        for seed, top1 in enumerate(values)
    ]
    for values, warned in ((["top1", "loss"], True), (["loss"], False), ([], True)):
        notes = build_report(runs, values=values).notes
        assert any(note.startswith("Warning: the std of simkd (28.28)") for note in notes) is warned
