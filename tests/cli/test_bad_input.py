"""What a user may get wrong: an error that says what and how to mend it, and nothing half-done."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

TINY = "--dataset digits -o data.size=8 -o data.samples_per_class=8 -o schedule.epochs=1 --threads 1"

Kdctl = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "complaints", "code"),
    [
        ("train", ("no student is named", "--student resnet8x4"), 2),
        ("bench", ("no student is named", "say --student resnet8x4"), 2),
        ("train --student resnet9", ("no model 'resnet9'", "did you mean 'resnet"), 2),
        (f"train --student resnet3 --teacher resnet44x {TINY}", ("no model 'resnet44x'", "resnet44"), 2),
        (
            f"train --student resnet3 --method simkdd {TINY}",
            ("no method 'simkdd'", "did you mean 'simkd'"),
            2,
        ),
        ("train --student resnet3 --dataset digit", ("no dataset", "did you mean 'digits'"), 2),
        ("train --student resnet3 --protocol simkdd", ("simkdd", "did you mean 'simkd'"), 2),
        (f"train --student resnet3 {TINY} -o optimizer.learnin_rate=1", ("did you mean 'learning_rate'",), 2),
        (f"train --student resnet3 {TINY} -o optimizer.learning_rate=-1", ("learning_rate = -1",), 2),
        (f"train --student resnet3 {TINY} -o epochs", ("-o epochs: ",), 2),
        (f"train --student resnet3 --teacher gone.pt {TINY}", ("gone.pt", "cannot be read"), 2),
        (f"train --student resnet3 --teacher abcdef12 {TINY}", ("no run 'abcdef12'",), 2),
        (f"train --student resnet3 {TINY} --device tpu", ("'tpu' is not a device",), 2),
        (f"train --student resnet3 {TINY} --device cpu --graphs on", ("--graphs on needs a GPU",), 2),
        (f"train --student resnet3 {TINY} --plugin gone.py", ("no plug-in file", "gone.py"), 2),
        (
            f"train --student resnet3 --teacher resnet4 {TINY} -o method.reuse_from=stage7",
            ("resnet3 <- resnet4 · simkd: the teacher has no stage 'stage7'", "did you mean 'stage"),
            2,
        ),
        (
            f"train --student resnet3 --teacher resnet4 --method sp {TINY} -o method.ce_weight=0 "
            "-o method.kd_weight=0",
            ("ce_weight = 0 and kd_weight = 0", "does not train the student's classifier"),
            2,
        ),
        ("train gone.toml", ("gone.toml cannot be read",), 2),
        ("sweep gone.toml", ("gone.toml cannot be read",), 2),
        ("list models --plugin gone.py", ("no plug-in file",), 2),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_made(
    kdctl: Kdctl, tmp_path: Path, words: str, complaints: tuple[str, ...], code: int
) -> None:
    kdctl(words).refused(*complaints, code=code)
    assert list(tmp_path.iterdir()) == []


def test_all_mistakes_of_a_recipe_come_at_once(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    name = recipe(
        "[method]\nname = 'kd'\ntemprature = 2\n[optimizer]\nname = 'sdg'\n[engine]\nprecison = 'bf16'\n"
    )
    answer = kdctl(f"sweep {name}")
    answer.refused("'temprature'", "'sdg'", "'precison'", f"error: {name}: ", code=2)
    assert answer.err.count("error: ") == 3


def test_data_that_are_nowhere_say_where_they_were_looked_for(kdctl: Kdctl, tmp_path: Path) -> None:
    for name in ("imagefolder", "streamedfolder"):
        words = f"train --student resnet3 --dataset {name} -o data.path=pictures --data here"
        kdctl(words).refused(
            "there is no folder here/pictures (data.path = 'pictures' is looked for below --data here)",
            code=1,
        )
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "pictures").mkdir()
    answer = kdctl(words)
    answer.refused(f"it lies where you stand: -o data.path={tmp_path / 'pictures'}", code=1)


@pytest.mark.parametrize("name", ["imagefolder", "streamedfolder"])
def test_data_of_one_class_are_refused(kdctl: Kdctl, tmp_path: Path, name: str) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "data" / "pictures" / split / "cat"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "1.png")
    words = f"train --student resnet3 --dataset {name} -o data.path=pictures -o data.size=8 --dry-run"
    kdctl(words).refused(f"'{name}' has 1 class, cat: there is nothing to tell apart", code=1)


def test_data_that_are_corrupt_are_refused(kdctl: Kdctl, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "data" / "pictures" / split / label
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(b"no picture")
    answer = kdctl("train --student resnet3 --dataset imagefolder -o data.path=pictures --threads 1")
    answer.refused("1.png", code=1)
    assert not (tmp_path / "runs").exists()


def test_a_database_that_is_not_ours_is_left_alone(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / "kdctl.db"
    path.write_text("a shopping list\n")
    kdctl(f"train --student resnet3 {TINY}").refused("not an SQLite database", code=1)
    kdctl("report").refused("not an SQLite database", code=1)
    assert path.read_text() == "a shopping list\n"
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (cake TEXT)")
    connection.close()
    before = path.read_bytes()
    kdctl(f"train --student resnet3 {TINY}").refused("kdctl.db", code=1)
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_refused(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    kdctl(f"train --student resnet3 {TINY}").refused("read-only", code=1)


@pytest.mark.parametrize("option", ["--runs", "--data"])
@pytest.mark.parametrize("place", ["notes", "notes/inside"])
@pytest.mark.parametrize("mode", ["--quiet", "--dry-run"])
def test_a_file_is_no_place_for_runs_or_data(
    kdctl: Kdctl, tmp_path: Path, option: str, place: str, mode: str
) -> None:
    (tmp_path / "notes").write_text("a file")
    answer = kdctl(f"train --student resnet3 {TINY} {option} {place} {mode}")
    answer.refused(f"{option} {place}: notes is a file, not a folder", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_plug_in_that_raises_is_named(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("import does_not_exist\n")
    answer = kdctl(f"train --student resnet3 {TINY} --plugin raises.py")
    answer.refused("raises.py failed to import", "does_not_exist", code=2)


def test_a_student_larger_than_memory_fails_with_its_size(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "giant.py").write_text(
        "from torch import nn\n"
        "from kdctl.protocols.backbone import Backbone, Link, models\n"
        "@models.register('giant')\n"
        "def giant(num_classes, input_size):\n"
        "    '''Too large.'''\n"
        "    size = input_size * input_size * 3\n"
        "    flat = Link(name='flat', module=nn.Flatten(), shape=(size,))\n"
        "    wide = Link(name='wide', module=nn.Linear(size, 10**10), shape=(10**10,))\n"
        "    head = nn.Linear(10**10, num_classes)\n"
        "    return Backbone([flat, wide], classifier=head, stage_taps=['wide'], input_size=input_size)\n"
    )
    answer = kdctl(f"train --student giant {TINY} --plugin giant.py")
    answer.refused("the weights of giant need", "GiB", "choose smaller models", code=1)


def test_a_checkpoint_with_code_in_it_does_not_teach(kdctl: Kdctl, tmp_path: Path) -> None:
    torch.save({"weights": print}, tmp_path / "evil.pt")
    answer = kdctl(f"train --student resnet3 --teacher evil.pt {TINY}")
    answer.refused("evil.pt was refused", code=2)


@pytest.mark.extended
def test_a_teacher_of_other_data_is_refused(kdctl: Kdctl) -> None:
    kdctl(f"train --student resnet4 {TINY} -o data.num_classes=5 --quiet")
    answer = kdctl("list runs --format json")
    key = answer.out.partition('"run": "')[2][:16]
    answer = kdctl(f"train --student resnet3 --teacher {key} {TINY} --quiet")
    answer.refused("was trained on 5 classes of 'digits', the student sees 10", "same classes", code=2)
    assert kdctl("list runs --format json").out.count('"run"') == 1


def test_a_model_that_cannot_take_the_images_is_refused_before_anything_is_stored(
    kdctl: Kdctl, tmp_path: Path
) -> None:
    answer = kdctl(f"train --student mobilenetv2 --teacher vgg8 {TINY} --quiet")
    answer.refused("images of 8x8 pixels are too small for MobileNetV2", "larger images", code=2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.extended
def test_of_very_many_mistakes_the_first_are_told_and_the_others_counted(
    kdctl: Kdctl, recipe: Callable[..., str]
) -> None:
    answer = kdctl(f"sweep {recipe(''.join(f'[quux{number}]' + chr(10) for number in range(500)))} --dry-run")
    assert answer.code == 2
    assert answer.err.count("error:") == 50
    assert answer.err.splitlines()[-1] == "and 450 more."


def test_a_sweep_s_recipe_with_options_of_a_run_is_told_how_a_sweep_takes_them(kdctl: Kdctl) -> None:
    answer = kdctl("train quickstart --student resnet8")
    assert answer.code == 2
    assert "kdctl sweep RECIPE; it takes a student as -o student=NAME" in answer.err


def test_a_recipe_without_its_ending_is_found(kdctl: Kdctl, recipe: Callable[[str], str]) -> None:
    recipe("")
    assert "did you mean 'tiny.toml'?" in kdctl("sweep tiny").err
