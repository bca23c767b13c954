import pytest

from kdctl.errors import UsageError
from kdctl.report.fields import (
    distinguishing_fields,
    flatten,
    known_fields,
    read_field,
    resolve_field,
    short_names,
    show_value,
    varying_fields,
    without_repeats,
)


def test_a_dotted_name_reads_tables_and_lists(make_run):
    plan = make_run().plan
    assert read_field(plan, "method.projector.reduction") == 2
    assert read_field(plan, "teachers.0.name") == "wrn_40_2"
    assert read_field(plan, "teachers.².name") is None  # a digit to Python, and no number
    assert read_field(plan, "schedule.milestones") == (150, 180, 210)
    assert read_field(plan, "method.no_such.thing") is None
    assert read_field(plan, "teachers.3.name") is None


def test_a_table_reads_as_its_name_and_teachers_as_their_joint_names():
    plan = {"student": {"name": "resnet8x4"}, "teachers": [{"name": "a"}, {"name": "b"}]}
    assert read_field(plan, "student") == "resnet8x4"
    assert read_field(plan, "teachers") == "a + b"


def test_leaves_are_named_by_their_path():
    assert flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [3, 4], "f": []}) == {
        "a.b": 1,
        "c.0.d": 2,
        "e": (3, 4),
    }


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("method", "method.name"),
        ("student", "student.name"),
        ("data", "data.name"),
        ("teacher", "teachers"),
        ("lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("projector", "method.projector.name"),
        ("seed", "seed"),
        ("teachers.0.name", "teachers.0.name"),
    ],
)
def test_short_names_find_their_field(make_run, short, full):
    assert resolve_field(short, known_fields([make_run().plan])) == full


def test_an_unknown_field_names_the_nearest(make_run):
    with pytest.raises(UsageError) as caught:
        resolve_field("learnig_rate", known_fields([make_run().plan]))
    assert caught.value.problem == "no run has a field 'learnig_rate'."
    assert caught.value.hint.startswith("did you mean 'learning_rate'?")


def test_an_ambiguous_field_must_be_written_in_full():
    with pytest.raises(UsageError, match=r"could be method\.weight or optimizer\.weight") as caught:
        resolve_field("weight", ["method.weight", "optimizer.weight"])
    assert caught.value.hint == "write it in full."


def test_seeds_and_keys_of_other_runs_do_not_vary(make_run):
    one = make_run(seed=0, settings={"teachers.0.run": "a" * 16, "student.name": "vgg8"})
    two = make_run(seed=1, settings={"teachers.0.run": "b" * 16})
    assert varying_fields([one.plan, two.plan]) == ["student.name"]


def test_a_method_s_own_options_do_not_tell_methods_apart_again(make_run):
    plans = [make_run(settings={"method.name": name}).plan for name in ("ce", "kd", "simkd")]
    assert "method.loss" in varying_fields(plans)
    assert distinguishing_fields(plans) == ["method.name"]


def test_options_that_tell_runs_of_one_method_apart_are_shown(make_run):
    plans = [make_run(settings={"method.name": "ce"}).plan]
    plans += [make_run(settings={"method.loss": loss}).plan for loss in ("l2", "kl")]
    assert distinguishing_fields(plans) == ["method.name", "method.loss"]


def test_students_and_teachers_are_both_shown_even_when_paired(make_run):
    pairs = (("resnet32x4", "vgg8"), ("wrn_40_2", "resnet8x4"))
    plans = [make_run(settings={"teachers.0.name": t, "student.name": s}).plan for t, s in pairs]
    assert distinguishing_fields(plans) == ["teachers", "student.name"]


def test_a_teacher_s_key_is_shown_when_nothing_else_differs(make_run):
    plans = [make_run(settings={"teachers.0.run": letter * 16}).plan for letter in "ab"]
    assert distinguishing_fields(plans) == ["teachers.0.run"]


def test_where_the_data_lie_never_replaces_a_setting(make_run):
    settings = [{"data.path": f"/{rate}", "optimizer.learning_rate": rate} for rate in (0.05, 0.1)]
    assert distinguishing_fields([make_run(settings=each).plan for each in settings]) == [
        "optimizer.learning_rate"
    ]


def test_which_optimizer_it_was_stands_before_any_option_that_tells_the_same(make_run):
    settings = [
        {"engine.average_buffers": is_on, "optimizer.name": name}
        for is_on, name in ((False, "sgd"), (True, "lamb"))
    ]
    assert distinguishing_fields([make_run(settings=each).plan for each in settings]) == ["optimizer.name"]


def test_plans_that_share_their_tables_are_looked_at_once_whatever_their_seeds(make_run):
    one, other = make_run().plan, make_run().plan
    assert without_repeats([one, {**one, "seed": 1}, other, {**one, "seed": 2}]) == [one, other]


def test_a_number_of_a_search_is_told_however_often_its_plans_are_shared(make_run):
    rates = (0.011, 0.023, 0.047)
    settings = [{"optimizer.learning_rate": rate, "optimizer.momentum": 1 - rate} for rate in rates]
    plans = [make_run(settings=each).plan for each in settings]
    searched = ["optimizer.learning_rate", "optimizer.momentum"]
    assert distinguishing_fields(plans) == searched
    assert distinguishing_fields([*plans, *({**plan, "seed": 1} for plan in plans)]) == searched
    read_apart = [make_run(settings=each, seed=seed).plan for seed in range(2) for each in settings]
    assert distinguishing_fields(read_apart) == searched


def test_a_number_that_follows_another_is_left_out_where_it_comes_twice(make_run):
    settings = [
        {"optimizer.learning_rate": rate, "optimizer.momentum": 1 - rate, "method.temperature": temperature}
        for rate in (0.011, 0.023, 0.047)
        for temperature in (2.0, 4.0)
    ]
    plans = [make_run(settings=each, seed=seed).plan for seed in range(2) for each in settings]
    assert distinguishing_fields(plans) == ["method.temperature", "optimizer.learning_rate"]


def test_short_names_stay_unambiguous():
    fields = [
        "teachers",
        "method.name",
        "method.weight",
        "optimizer.weight",
        "method.loss",
        "schedule.epochs",
    ]
    assert short_names(fields, taken=["loss"]) == {
        "teachers": "teacher",
        "method.name": "method",
        "method.weight": "method.weight",
        "optimizer.weight": "optimizer.weight",
        "method.loss": "method.loss",
        "schedule.epochs": "epochs",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (True, "yes"), (0.05, "0.05"), (5e-4, "0.0005"), ((1, 2), "1, 2"), ("0a" * 8, "0a0a0a0a")],
)
def test_values_are_worded_briefly(value, text):
    assert show_value(value) == text
