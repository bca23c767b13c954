"""Whole numbers, text and files of recipes at their edges: told at once, and nothing is made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.cli.app import run
from kdctl.recipe.bounds import unfit_text
from kdctl.recipe.values_in_toml import number_meant

Kdctl = Callable[..., Any]

TRAIN = "train --student resnet3 --dataset digits --dry-run"
DIGITS_23 = "1" * 23
AXES = ("schedule.epochs", "schedule.gamma", "data.size", "data.padding", "data.split_seed", "method.name")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (f"{TRAIN} --seed {2**63}", f"--seed {2**63} is not possible"),
        (f"{TRAIN} --seed {'9' * 5000}", "--seed 9999999999999999999... is not possible"),
        (f"{TRAIN} --threads 999999999", "--threads 999999999"),
        (f"{TRAIN} --workers 100000", "--workers 100000 is not possible"),
        (f"{TRAIN} --devices 100000", "--devices 100000 is not possible"),
        ("watch --every 9999999999999999999", "--every 9999999999999999999 is not possible"),
        (f"{TRAIN} -o seeds=[{2**63}]", "seeds = ["),
        (f"{TRAIN} -o seeds=99999999", "99,999,999 are more than the 10,000"),
        (f"{TRAIN} -o baseline_seeds=99999999", "baseline_seeds = 99999999"),
        (f"{TRAIN} -o seeds=[{2**63 - 1}] -o baseline_seeds=2", "goes on after the largest seed"),
        (f"{TRAIN} --teacher resnet4 -o teacher.seed={2**63}", "[teacher] seed"),
        (f"{TRAIN} -o schedule.epochs={DIGITS_23}", "[schedule] epochs"),
        (f"{TRAIN} -o schedule.epochs=1000001", "less than or equal to 1000000"),
        (f"{TRAIN} -o schedule.warmup_epochs={DIGITS_23}", "[schedule] warmup_epochs"),
        (f"{TRAIN} -o schedule.milestones=[{DIGITS_23}]", "[schedule] milestones"),
        (f"{TRAIN} -o data.size=100000", "[data] size = 100000"),
        (f"{TRAIN} -o data.padding=1000000000", "[data] padding"),
        (f"{TRAIN} -o data.padding=1e9", "[data] padding"),
        (f"{TRAIN} -o data.batch_size={DIGITS_23}", "[data] batch_size"),
        (f"{TRAIN} -o data.num_classes={DIGITS_23}", "[data] num_classes"),
        (f"{TRAIN} -o data.split_seed={2**63}", "[data] split_seed"),
        (f"{TRAIN} -o optimizer.learning_rate=1e308", "should be at most 1e+30"),
        (f"{TRAIN} -o optimizer.learning_rate={'9' * 400}", "should be at most"),
        (f"{TRAIN} -o optimizer.weight_decay=1e300", "should be at most 1e+30"),
        (f"{TRAIN} -o optimizer.learning_rate=1e-320", "should be 0 or at least 1e-30"),
        (f"{TRAIN} -o optimizer.learning_rate={'9' * 5000}", "[optimizer] learning_rate"),
        (f"{TRAIN} -o engine.teacher_lookahead={DIGITS_23}", "[engine] teacher_lookahead"),
        (f"{TRAIN} --teacher resnet4 --method crd -o method.num_negatives={2**64}", "at most 1,000,000,000"),
        (f"{TRAIN} --method one -o method.num_branches=1000000000", "less than or equal to 64"),
        (f"{TRAIN} --teacher resnet4 --method ft -o method.rate=1000000000", "less than or equal to 100"),
        (f"{TRAIN} --teacher resnet4 --method cc -o method.order=1000000000", "less than or equal to 64"),
        (f"{TRAIN} --teacher resnet4 --method zskt -o method.noise_size=1000000000", "equal to 100000"),
        (f"{TRAIN} -o data.repeats=1000000000", "less than or equal to 1000"),
        (f"{TRAIN} --dataset webdataset -o data.size=100000", "less than or equal to 4096"),
        ("list models --num-classes 9223372036854775808", "--num-classes 9223372036854775808"),
        (f"{TRAIN} -o optimizer.learning_rate=.1", "hint: write learning_rate = 0.1."),
        (f"{TRAIN} -o optimizer.momentum=+.5", "hint: write momentum = +0.5."),
        (f"{TRAIN} -o optimizer.learning_rate=1.", "hint: write learning_rate = 1."),
        (
            f"{TRAIN} --method dml -o method.peers=[student,resnet4]",
            """-o 'method.peers = ["student", "resnet4"]'.""",
        ),
        (f"{TRAIN} --method dml -o method.peers=resnet4", 'hint: write method.peers = ["resnet4"];'),
        (f"{TRAIN} -o schedule.milestones=30,60", "-o 'schedule.milestones = [30, 60]'."),
        (f"{TRAIN} -o schedule.milestones=30", "hint: write schedule.milestones = [30];"),
        (f"{TRAIN} -o {'a.' * 10_000}b=1", "no field has so long a name"),
        (f"{TRAIN} -o data.path={'[' * 10_000}", "has no option 'path'"),
        (f"{TRAIN} -o schedule.milestones={'[' * 40}1{']' * 40}", "nested more than 32 deep"),
        (f"{TRAIN} -o data=digits\0", "has a NUL"),
    ],
)
def test_numbers_and_words_beyond_their_bounds_are_refused_at_once(
    kdctl: Kdctl, tmp_path: Path, words: str, complaint: str
) -> None:
    kdctl(words).refused(complaint, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('extends = "a\\u0000.toml"', "NUL"),
        ('plugins = ["a\\u0000.py"]', "NUL"),
        ('data = {name = "imagefolder", path = "a\\u0000"}', "NUL"),
        ('teacher = {checkpoint = "a\\u0000.pt"}', "NUL"),
        (f"x = {'[' * 10_000}", "too deep"),
        (f"x = {'[' * 40}1{']' * 40}", "nested more than 32 deep"),
        (f"{'a.' * 2_000}b = 1", "nested"),
        (f"x = {'9' * 5000}", "not valid TOML"),
        ("\n".join(f"k{number} = 1" for number in range(10_001)), "more than 10,000 keys"),
        ("optimizer.learning_rate = .1", "write 0.1"),
        ("optimizer.learning_rate = 1.", "write 1"),
        ("[grid]\noptimizer.learning_rate = [0.1, .05]", "write 0.05"),
        ('extends = "../../recipe/smoke"', "no protocol preset"),
        ('extends = "../presets/simkd"', "no protocol preset"),
        ("seeds = 99999999", "more than the 10,000"),
        ("[grid]\n" + "\n".join(f"{field} = {list(range(100))}" for field in AXES), "1,000,000,000,000"),
    ],
)
def test_recipes_at_the_edge_of_toml_are_refused(
    kdctl: Kdctl, tmp_path: Path, body: str, complaint: str
) -> None:
    (tmp_path / "x.toml").write_text(f"student = 'resnet3'\n{body}\n")
    for verb in ("train", "sweep"):
        kdctl(f"{verb} x.toml --dry-run").refused(complaint, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_mark_at_the_start_of_a_recipe_does_not_matter(kdctl: Kdctl, tmp_path: Path, ending: str) -> None:
    lines = ["student = 'resnet3'", "data = {name = 'digits', size = 8}", "schedule.epochs = 1", ""]
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbf" + ending.join(lines).encode())
    assert kdctl("train x.toml --dry-run").code == 0


def test_what_is_no_text_file_is_no_recipe(kdctl: Kdctl, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "utf16.toml").write_bytes("student = 'resnet3'".encode("utf-16"))
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(10**10)
    for name, complaint in (
        ("pipe", "it is a named pipe"),
        ("folder", "it is a folder"),
        ("utf16", "not a text file in UTF-8"),
        ("loop", "cannot be read"),
        ("huge", "10,000,000,000 bytes"),
    ):
        kdctl(f"train {name}.toml").refused(f"{name}.toml", complaint, code=2)
        (tmp_path / "child.toml").write_text(f"extends = '{name}.toml'\nstudent = 'resnet3'\n")
        kdctl("train child.toml").refused(f"{name}.toml", complaint, code=2)


@pytest.mark.parametrize(
    ("text", "number"),
    [(".1", "0.1"), ("-.5", "-0.5"), ("1.", "1"), ("01", "1"), (".1e-3", "0.1e-3"), ("1e3", "1e3")],
)
def test_what_looks_like_a_number_is_written_as_toml_has_it(text: str, number: str) -> None:
    assert number_meant(text) == number


@pytest.mark.parametrize("text", ["", ".", "-", "1.2.3", "kd", "0x10", "1 2", "e5", "True"])
def test_other_text_is_no_number(text: str) -> None:
    assert number_meant(text) is None


def test_trees_of_recipes_are_fit() -> None:
    assert unfit_text({"a": [{"b": {"c": [1, "x"]}}]}) is None
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert "nested" in str(unfit_text(deep))
    while isinstance(deep, list):  # or Python recurses to free it
        deep = deep.pop()


@pytest.mark.parametrize(
    ("said", "believed"), [("80", "80"), ("9999", "9999"), ("1000000000", "9999"), ("x", "x")]
)
def test_a_terminal_is_not_believed_to_be_miles_wide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, believed: str
) -> None:
    monkeypatch.setenv("COLUMNS", said)
    with pytest.raises(SystemExit):
        run(["--version"])
    assert os.environ["COLUMNS"] == believed
    assert capsys.readouterr().out.startswith("kdctl ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("sweep tiny.toml --runs loop", "the folder of loop/kdctl.db cannot be made"),
        ("runs copy loop --sweep tiny", "Too many levels of symbolic links"),
    ],
)
def test_a_folder_whose_link_leads_to_itself_is_named(
    kdctl: Kdctl, swept: str, tmp_path: Path, words: str, complaint: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    kdctl(words.replace("tiny.toml", swept)).refused(complaint, code=1)
    assert (tmp_path / "loop").is_symlink()
