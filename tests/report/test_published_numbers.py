"""Published numbers: those that come with kdctl, and files of a user's own."""

import os
from pathlib import Path

import pytest

from kdctl.errors import UsageError
from kdctl.recipe.load import parse_toml
from kdctl.report.build import build_report
from kdctl.report.published_numbers import packaged_numbers, read_numbers
from kdctl.report.reported import read_reported

RECIPES = Path(__file__).parents[2] / "recipes"


def match_of(number):
    return {name.removesuffix(".name"): value for name, value in number.match.items()}


def test_every_packaged_number_has_a_source_a_protocol_and_data():
    numbers = packaged_numbers()
    assert len(numbers) > 300
    for number in numbers:
        assert number.source.startswith("arXiv:")
        assert number.protocol in {"simkd", "crd"}
        has_first_phase = match_of(number)["method"] in {"ab", "ft", "fsp"}  # of 30 epochs
        assert number.epochs == (270 if has_first_phase else 240)
        assert match_of(number)["data"] == "cifar100"
        assert 15 < number.summary.mean < 80


@pytest.mark.parametrize(
    ("protocol", "teacher", "student", "method", "top1", "std", "num_trials"),
    [
        ("simkd", "resnet32x4", "resnet8x4", "kd", 74.42, 0.05, 4),
        ("simkd", "wrn_40_2_post", "mobilenetv2", "semckd", 69.88, 0.30, 4),
        ("simkd", "resnet32x4", "shufflenetv2x1_5", "simkd", 79.54, 0.26, 4),
        ("simkd", "wrn_40_2_post", "resnet8x4", "sequential", 45.03, 0.44, 4),
        ("crd", "resnet110", "resnet20", "crd", 71.46, None, 5),
        ("crd", "resnet50", "vgg8", "nst", 71.28, None, 3),
        ("crd", "wrn_40_2", "wrn_40_1", "dkd", 74.81, None, None),
        (
            "crd",
            None,
            "resnet8x4",
            "ce",
            72.50,
            None,
            None,
        ),  # of the students alone the paper does not say it
    ],
)
def test_packaged_numbers_are_those_of_the_papers(protocol, teacher, student, method, top1, std, num_trials):
    wanted = {"data": "cifar100", "student": student, "method": method}
    wanted |= {} if teacher is None else {"teacher": teacher}
    found = [number for number in packaged_numbers() if match_of(number) == wanted]
    (summary,) = [number.summary for number in found if number.protocol == protocol]
    assert (summary.mean, summary.std, summary.n) == (top1, std, num_trials)


@pytest.mark.parametrize("name", ["table", "table1", "table2", "resnet32x4_resnet8x4"])
def test_recipes_of_the_crd_paper_and_packaged_numbers_say_the_same(name):
    packaged = {
        (match.get("teacher"), match["student"], match["method"]): number
        for number in packaged_numbers()
        if number.protocol == "crd" and number.source.startswith("arXiv:1910.10699")
        for match in [match_of(number)]
    }
    path = RECIPES / "crd" / f"{name}.toml"
    numbers = [
        number
        for number in read_reported(parse_toml(path.read_text(), path.name))
        if number.source.startswith("arXiv:1910.10699")
    ]
    assert len(numbers) > 10
    for number in numbers:
        match = {"teacher": "resnet32x4", "student": "resnet8x4", **match_of(number)}
        teacher = None if match["method"] == "ce" else match["teacher"]
        theirs = packaged[teacher, match["student"], match["method"]]
        assert (number.summary, number.epochs) == (theirs.summary, theirs.epochs)


def test_against_published_shows_theirs_the_difference_both_n_and_whether_they_compare(make_run):
    settings = {"teachers": [{"name": "resnet32x4", "run": "f" * 16}]}
    runs = [make_run(top1, seed=seed, settings=settings) for seed, top1 in enumerate((78.2, 78.0, 78.1))]
    short = {**settings, "method.name": "kd", "schedule.epochs": 60}
    runs.append(make_run(73.0, settings=short))
    table = build_report(runs, select="best-test", published=packaged_numbers())
    other, ours = table.records()
    assert (ours["n"], ours["published_mean"], ours["published_num_trials"]) == (3, 78.08, 4)
    assert ours["published_difference"] == pytest.approx(0.02)
    assert (ours["comparable"], ours["published_verdict"]) == (True, "undecided")
    assert (other["comparable"], other["published_difference"]) == (False, None)
    assert other["published_unlike"] == "60 of 240 epochs"
    assert any("arXiv:2203.14001" in note for note in table.notes)


def test_a_table_that_no_published_number_fits_says_so(make_run):
    runs = [make_run(70.0, settings={"data.name": "digits"})]
    assert any(
        "No published number" in note for note in build_report(runs, published=packaged_numbers()).notes
    )


def test_a_user_s_own_file_is_read_like_the_tables_of_a_recipe(tmp_path, make_run):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[reported]]\nsource = "my thesis"\nmatch.method = "simkd"\ntop1 = 77.5\n', encoding="utf-8"
    )
    (record,) = build_report([make_run(78.0)], published=read_numbers(path)).records()
    assert (record["published_mean"], record["published_difference"]) == (77.5, 0.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[reported]]\nmatch.method = 'kd'\ntop = 70.0", "top"),
        ("top1 = 70.0", "has a 'top1'"),
        ("schema = 1", "holds no published number"),
        ("[[reported", "not valid TOML"),
    ],
)
def test_mistakes_in_a_user_s_file_name_it(tmp_path, text, problem):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_numbers(path)
    assert problem in caught.value.problem
    assert "mine.toml" in str(caught.value.mistakes)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.toml cannot be read"):
        read_numbers(tmp_path / "missing.toml")


def test_a_file_that_is_none_is_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "deep.toml").write_text("x = " + "[" * 10_000)
    (tmp_path / "long.toml").write_text("x = " + "9" * 5000)
    for name, complaint in (
        ("pipe", "it is a named pipe"),
        ("deep", "nested too deep"),
        ("long", "not valid TOML"),
    ):
        with pytest.raises(UsageError, match=complaint):
            read_numbers(tmp_path / f"{name}.toml")
