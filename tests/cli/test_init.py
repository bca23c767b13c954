"""`kdctl init` writes a recipe that runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Kdctl = Callable[..., Any]

TINY = "--student resnet3 --dataset digits --epochs 1 --seeds 2"


@pytest.mark.extended
def test_a_recipe_of_flags_is_written_planned_and_says_how_to_start_it(kdctl: Kdctl, tmp_path: Path) -> None:
    answer = kdctl(f"init mine.toml {TINY} --teacher resnet4 --method kd --method simkd --lr 0.1 --lr 0.2")
    assert answer.code == 0, answer
    assert "13 runs: 1 teacher, 6 configurations × 2 seeds; 0 done, 13 to do" in answer.out
    assert "kdctl sweep mine.toml" in answer.err
    tree = tomllib.loads((tmp_path / "mine.toml").read_text())
    assert tree["name"] == "mine"
    assert tree["grid"] == [
        {"method": ["ce"], "optimizer": {"learning_rate": [0.1, 0.2]}},
        {"method": ["kd", "simkd"], "optimizer": {"learning_rate": [0.1, 0.2]}},
    ]
    assert tree["schedule"] == {"name": "cosine", "epochs": 1}
    assert "13 runs:" in kdctl("sweep mine.toml --dry-run").out


def test_every_line_that_a_recipe_leaves_commented_out_is_valid(kdctl: Kdctl, tmp_path: Path) -> None:
    assert kdctl("init mine.toml --student resnet3 --teacher resnet4 --dataset digits").code == 0
    text = (tmp_path / "mine.toml").read_text()
    loose = [line for line in text.splitlines() if line.startswith("# ") and "=" in line]
    assert len(loose) >= 4
    for line in loose:
        text = text.replace(line, line.removeprefix("# "))
    (tmp_path / "loose.toml").write_text(
        text.replace("# [schedule]", "[schedule]").replace("# [engine]", "[engine]")
    )
    answer = kdctl("sweep loose.toml --dry-run")
    assert answer.code == 0, answer


def test_a_student_alone_needs_no_teacher(kdctl: Kdctl, tmp_path: Path) -> None:
    assert kdctl(f"init alone.toml {TINY}").code == 0
    assert "teacher" not in tomllib.loads((tmp_path / "alone.toml").read_text())


def test_what_it_says_to_type_can_be_typed(kdctl: Kdctl, tmp_path: Path) -> None:
    answer = kdctl("init", "my recipe.toml", *TINY.split())
    assert "kdctl sweep 'my recipe.toml'" in answer.err
    text = (tmp_path / "my recipe.toml").read_text()
    assert "# Run it:    kdctl sweep 'my recipe.toml'\n" in text
    assert "# Table:     kdctl report --sweep 'my recipe'\n" in text


def test_what_it_says_to_type_finds_the_same_folders(kdctl: Kdctl, tmp_path: Path) -> None:
    answer = kdctl(f"init mine.toml {TINY} --runs results --data images")
    assert "start it: kdctl sweep mine.toml --runs results --data images\n" in answer.err
    text = (tmp_path / "mine.toml").read_text()
    assert "# Run it:    kdctl sweep mine.toml --runs results --data images\n" in text
    assert "# Table:     kdctl report --sweep mine --runs results\n" in text


def test_rates_are_given_one_by_one_or_together(kdctl: Kdctl, tmp_path: Path) -> None:
    assert kdctl(f"init rates.toml {TINY} --lr 0.1,0.2 --lr 0.3").code == 0
    tree = tomllib.loads((tmp_path / "rates.toml").read_text())
    assert tree["grid"][0]["optimizer"]["learning_rate"] == [0.1, 0.2, 0.3]


@pytest.mark.extended
def test_ones_own_images_are_found_from_where_they_were_named(kdctl: Kdctl, tmp_path: Path) -> None:
    for place in ("train/daisy", "train/rose", "test/daisy", "test/rose"):
        (tmp_path / "flowers" / place).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, len(place))).save(
                tmp_path / "flowers" / place / f"{number}.png"
            )
    assert kdctl("init mine.toml --student resnet3 --images flowers --epochs 1").code == 0
    tree = tomllib.loads((tmp_path / "mine.toml").read_text())
    assert tree["data"] == {"name": "imagefolder", "path": str(tmp_path / "flowers")}


@pytest.mark.parametrize("dataset", ["imagefolder", "streamedfolder", "webdataset"])
def test_a_data_set_that_is_a_folder_is_not_drafted_without_one(
    kdctl: Kdctl, tmp_path: Path, dataset: str
) -> None:
    answer = kdctl(f"init mine.toml --student resnet3 --dataset {dataset}")
    answer.refused(f"the data set '{dataset}' is a folder of your own, and none is named", code=2)
    answer.refused("--images FOLDER", code=2)
    assert not (tmp_path / "mine.toml").exists()


def test_where_it_asks_it_asks_for_the_folder_too(
    kdctl: Kdctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["resnet3", "", "imagefolder", "flowers", 1])
    asked: list[str] = []

    def answer(question: str, **_: object) -> object:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", answer)
    (tmp_path / "flowers").mkdir()
    kdctl("init mine.toml").refused("flowers", code=1)  # as empty as it is
    assert asked[3] == "Folder of its images"


def test_images_that_are_not_there_are_told(kdctl: Kdctl, tmp_path: Path) -> None:
    answer = kdctl("init mine.toml --student resnet8 --images flowers")
    answer.refused("flowers", code=1)
    assert not (tmp_path / "mine.toml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("init mine.toml --student resnet99", "no model 'resnet99'"),
        ("init mine.toml --student resnet3 --teacher resnet4 --method kdd", "no method 'kdd'"),
        ("init mine.toml --student resnet3 --protocol simkdd", "no protocol preset 'simkdd'"),
        ("init mine.toml --student resnet3 --method kd", "teacher"),
        ("init mine.toml --student resnet3 --lr fast", "--lr fast is no number"),
        ("init mine --student resnet3", "no name for a recipe"),
        ("init nowhere/mine.toml --student resnet3", "no folder nowhere"),
    ],
)
def test_nothing_is_written_when_something_is_wrong(
    kdctl: Kdctl, tmp_path: Path, words: str, message: str
) -> None:
    kdctl(words).refused(message, code=2)
    assert list(tmp_path.glob("**/*.toml")) == []


def test_a_file_that_is_there_is_not_replaced_unasked(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("precious")
    kdctl(f"init mine.toml {TINY}").refused("there is a file mine.toml already", "--force", code=2)
    assert (tmp_path / "mine.toml").read_text() == "precious"
    assert kdctl(f"init mine.toml {TINY} --force").code == 0


def test_where_nobody_can_be_asked_it_says_what_to_type(
    kdctl: Kdctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    kdctl("init mine.toml").refused("no student is named", "--student resnet8x4", code=2)
