"""What a table says of runs that are not in its rows, and what it refuses."""

from dataclasses import replace

import pytest

from kdctl.errors import UsageError
from kdctl.records import Environment
from kdctl.report.build import build_report
from kdctl.report.reported import read_reported

PUBLISHED = read_reported({"reported": [{"match": {"method": "kd"}, "top1": 77.0}]})


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


def test_what_cannot_be_seen_in_a_table_is_refused_or_said_to_be_left_out(make_run, make_sweep):
    tops = {"ce": (72.0, 72.1), "kd": (78.0, 78.1), "at": (75.0, 75.1)}
    runs = [
        make_run(top1, seed=seed, settings={"method.name": method})
        for method, values in tops.items()
        for seed, top1 in enumerate(values)
    ]
    asked = ({"mark_best": True}, {"values": ["loss"]}), ({"versus_best": True}, {"published": PUBLISHED})
    for wish, table in asked:
        with pytest.raises(UsageError, match="this table has no place for"):
            build_report(runs, **wish, **table)
        notes = build_report(runs, make_sweep(runs, report=wish), **table).notes
        assert notes[-1].startswith("The recipe's [report] also asks for")
        assert not any(note.startswith("Bold") for note in notes)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"layout": "runs", "published": PUBLISHED}, "--layout list without --columns and --values."),
        ({"layout": "runs", "columns": ["method"]}, "--layout list."),
        ({"layout": "runs", "best_by": "test", "mark_best": True}, "--layout list without --values."),
        ({"versus_best": True, "values": ["loss"]}, "without --columns, --values and --against."),
    ],
)
def test_what_a_table_has_no_place_for_is_told_a_table_that_has(make_run, wish, told):
    with pytest.raises(UsageError) as refusal:
        build_report([make_run(70.0)], **wish)
    assert refusal.value.hint.endswith(told)


def test_a_seed_that_teaches_others_is_in_the_mean_of_its_replicates(make_run):
    large = {"method.name": "ce", "student.name": "resnet20"}
    runs = [make_run(70.0 + seed, seed=seed, settings=large) for seed in range(3)]
    taught = {"student.name": "resnet8", "teachers": [{"name": "resnet20", "run": runs[0].key}]}
    students = [make_run(60.0 + seed, seed=seed, settings=taught) for seed in range(3)]
    records = build_report([*runs, *students]).records()
    assert [(record["top1_mean"], record["n"]) for record in records] == [(71.0, 3), (61.0, 3)]
    alone = build_report([runs[0], *students])
    assert [record["top1_mean"] for record in alone.records()] == [61.0]
    assert "Teacher resnet20: 70.00 ± — (n = 1)." in alone.notes


def test_a_time_that_runs_of_a_gang_share_is_said_to_be_that_of_the_gang(make_run):
    alone = Environment(
        **dict.fromkeys(("kdctl_version", "git_commit", "python", "torch", "cuda", "device"), ""),
        **dict.fromkeys(("precision", "host", "data_fingerprint"), ""),
        num_threads=1,
        deterministic=True,
    )
    runs = [
        replace(make_run(70.0, seed=seed), environment=replace(alone, gang="aa bb" if seed else ""))
        for seed in range(3)
    ]
    said = "Time: 2 of 3 runs trained in gangs of 2; theirs is that of the whole gang."
    for options in ({}, {"layout": "runs"}, {"values": ["seconds"]}):
        assert said in build_report(runs, **options).notes
    for options in ({"values": ["top1"]}, {"layout": "paper"}):
        assert said not in build_report(runs, **options).notes
    mixed = [runs[1], replace(runs[2], environment=replace(alone, gang="aa bb cc"))]
    assert any("2 of 2 runs trained in gangs of 2 to 3" in note for note in build_report(mixed).notes)
    assert not any(note.startswith("Time") for note in build_report(runs[:1]).notes)


def test_of_several_teachers_a_row_tells_the_best_and_the_largest(make_run):
    several = [{"name": name, "run": "0123456789abcdef"} for name in ("wrn_40_2", "vgg13")]
    runs = [make_run(72.0, settings={"method.name": "aver", "teachers": several})]
    told = "Of several teachers: teacher (%) is the best one's, pruned (%) against the largest."
    assert told in build_report(runs).notes
    assert "Of several teachers: teacher (%) is the best one's." in build_report(runs, layout="paper").notes
    for others in (build_report(runs, values=["loss"]), build_report([make_run(72.0)])):
        assert not any(note.startswith("Of several teachers") for note in others.notes)
