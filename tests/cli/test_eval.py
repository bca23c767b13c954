from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

TINY = "--dataset digits -o data.size=8 -o data.samples_per_class=8 -o schedule.epochs=1 --threads 1"

Kdctl = Callable[..., Any]


def only_run(kdctl: Kdctl) -> str:
    kdctl(f"train --student resnet3 {TINY} --quiet")
    return json.loads(kdctl("list runs --format json").out)["rows"][0]["run"]


@pytest.mark.extended
def test_a_run_is_evaluated_as_a_table_and_as_json(kdctl: Kdctl) -> None:
    key = only_run(kdctl)
    text = kdctl(f"eval {key[:6]} --threads 1")
    assert (text.code, text.err) == (0, "")
    assert text.out.splitlines()[1].split() == ["run", key]
    tree = json.loads(kdctl(f"eval {key} --format json --select best-test --threads 1").out)
    assert (tree["run_key"], tree["selection"], tree["split"]) == (key, "best-test", "test")
    assert tree["teacher_agreement"] is None
    assert tree["flops"] == 2 * tree["multiply_adds"]
    assert [item["batch_size"] for item in tree["latency"]] == [1, 256]


@pytest.mark.extended
def test_the_accuracy_on_each_class_is_shown_on_request(kdctl: Kdctl) -> None:
    key = only_run(kdctl)
    assert "class " not in kdctl(f"eval {key} --threads 1").out
    lines = kdctl(f"eval {key} --threads 1 --per-class").out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("class "))
    assert [line.split()[0] for line in lines[start + 1 :]] == list("0123456789")


@pytest.mark.extended
def test_the_runs_of_a_sweep_are_evaluated_once(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(
        "schema = 1\nstudent = 'resnet3'\ndata = {name = 'digits', size = 8, samples_per_class = 8}\n"
        "schedule = {name = 'constant', epochs = 1}\nseeds = [0, 1]\n"
    )
    assert kdctl("sweep two.toml --threads 1 --quiet").code == 0
    note = "- Not evaluated: 2 of 2 runs. `kdctl eval --sweep NAME` finds ECE."
    assert note in kdctl("report --values top1,ece").out
    answer = kdctl("eval --sweep two --threads 1")
    assert "2 runs: 0 done, 2 to do" in answer.err
    assert [line.split()[1:3] for line in answer.out.splitlines()] == [
        ["what", "top-1"],
        ["seed", "0"],
        ["seed", "1"],
    ]
    again = kdctl("eval --sweep two --threads 1 --format json")
    assert "2 runs: 2 done, 0 to do" in again.err
    assert json.loads(again.out)["evaluations"] == []
    assert "Not evaluated" not in kdctl("report --values top1,ece").out
    shutil.rmtree(next(tmp_path.glob("runs/*/last.pt")).parent)
    lost = kdctl("eval --sweep two --threads 1 --select best-test")
    assert (lost.code, lost.err.count("evaluated")) == (1, 1)
    kdctl("eval --sweep three").refused("there is no sweep", code=1)
    kdctl("eval abc --sweep two").refused("a run does not go with --sweep", code=2)
    kdctl("eval").refused("nothing is named", "--sweep NAME", code=2)


@pytest.mark.extended
def test_a_checkpoint_is_evaluated_where_there_is_no_store(kdctl: Kdctl, tmp_path: Path) -> None:
    key = only_run(kdctl)
    shutil.move(tmp_path / "runs" / key / "last.pt", tmp_path / "model.pt")
    shutil.rmtree(tmp_path / "runs")
    answer = kdctl("eval model.pt --threads 1")
    assert answer.code == 0
    assert "model, on test" in answer.out
    assert not (tmp_path / "runs").exists()


@pytest.fixture(params=["imagefolder", "streamedfolder"])
def pictures(request: pytest.FixtureRequest, kdctl: Kdctl, tmp_path: Path) -> str:
    """Train on images in data/pictures, and return the run."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in (b"cat", b"d\xf8g"):  # the second is no UTF-8
            folder = tmp_path / "data" / "pictures" / split / os.fsdecode(label)
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    streamed = "-o data.resize=8 --workers 0" if request.param == "streamedfolder" else ""
    answer = kdctl(
        f"train --student resnet3 --dataset {request.param} -o data.path=pictures -o data.size=8 {streamed} "
        "-o data.batch_size=4 -o schedule.epochs=1 --threads 1 --quiet"
    )
    assert answer.code == 0, answer
    return json.loads(kdctl("list runs --format json").out)["rows"][0]["run"]


@pytest.mark.extended
def test_classes_whose_names_are_no_text_are_evaluated_and_reported(kdctl: Kdctl, pictures: str) -> None:
    answer = kdctl(f"eval {pictures} --threads 1 --per-class")
    assert (answer.code, answer.err) == (0, "")
    assert not multiprocessing.active_children()  # those that decoded its images have ended with it
    assert "d\\xf8g" in answer.out
    assert (
        next(iter(json.loads(kdctl(f"eval {pictures} --threads 1 --format json").out)["per_class_top1"]))
        == "cat"
    )
    for words in ("report --all", "report --all --format json", f"runs show {pictures}", "db check --hashes"):
        assert kdctl(words).code == 0
    Path("runs/kdctl.db").unlink()
    assert kdctl("sync").code == 0


@pytest.mark.extended
def test_images_that_were_moved_are_evaluated_where_they_are_now(
    kdctl: Kdctl, pictures: str, tmp_path: Path
) -> None:
    (tmp_path / "data" / "pictures").rename(tmp_path / "data" / "photos")
    kdctl(f"eval {pictures} --threads 1").refused("data/pictures", "-o data.path=FOLDER", code=1)
    for subject in (pictures, f"runs/{pictures}/last.pt"):
        for place in ("photos", tmp_path / "data" / "photos"):
            assert kdctl(f"eval {subject} -o data.path={place} --threads 1").code == 0
    for word in ("data.size=16", "method=ce", "data=photos", "data=[1]", "data=3", "data.path.deeper=x"):
        kdctl(f"eval {pictures} -o {word}").refused("stays as it was", "-o data.path=FOLDER", code=2)
    kdctl(f"eval {pictures} -o data.path=3").refused(
        "there is no folder data/3", "-o data.path=FOLDER", code=1
    )
    kdctl(f"eval {pictures} -o data.split=x").refused("data.split", "is no place", "path", code=2)
    next((tmp_path / "data" / "photos" / "test" / "cat").iterdir()).unlink()
    answer = kdctl(f"eval {pictures} -o data.path=photos --threads 1")
    answer.refused("are not those that the run was trained on", code=1)


def test_data_that_have_no_place_cannot_be_moved(kdctl: Kdctl) -> None:
    key = only_run(kdctl)
    kdctl(f"eval {key} -o data.path=x").refused("data.path of 'digits' is no place", code=2)


def test_what_cannot_be_evaluated_is_refused(kdctl: Kdctl, tmp_path: Path) -> None:
    kdctl("eval abcd1234").refused("no database", code=1)
    assert list(tmp_path.iterdir()) == []
    key = only_run(kdctl)
    kdctl(f"eval {key} --split val").refused("no validation split", "val_fraction", code=2)
    kdctl("eval abcd1234").refused("no run 'abcd1234'", "kdctl list runs", code=1)
    torch.save({"code": print}, tmp_path / "code.pt")
    kdctl("eval code.pt").refused("code.pt was refused", code=1)
    (tmp_path / "text.pt").write_text("hello")
    kdctl("eval text.pt").refused("text.pt is a file of text", code=1)


@pytest.mark.extended
def test_the_model_and_its_features_are_written_on_request(kdctl: Kdctl, tmp_path: Path) -> None:
    key = only_run(kdctl)
    answer = kdctl(f"eval {key} --export model.pt2 --features features.npz --threads 1")
    assert answer.code == 0
    assert answer.err.splitlines() == ["wrote model.pt2", "wrote features.npz"]
    assert (tmp_path / "model.pt2").stat().st_size > 0
    assert (tmp_path / "features.npz").stat().st_size > 0
    kdctl(f"eval {key} --export model.tflite").refused("model.tflite", ".onnx or .pt2", code=2)
    kdctl(f"eval {key} --features features.csv").refused("features.csv", "*.npz", code=2)


def test_what_should_be_a_file_of_weights_is_not_looked_for_among_the_runs(
    kdctl: Kdctl, two_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(two_runs, tmp_path / "runs"))
    (tmp_path / "models").mkdir()
    os.mkfifo(tmp_path / "pipe.bin")
    for name, words in (
        ("models", "it is a folder"),
        ("pipe.bin", "it is a named pipe"),
        ("lost.pt", "lost.pt"),
        ("models/lost.bin", "models/lost.bin"),
    ):
        answer = kdctl(f"eval {name} --threads 1")
        answer.refused(name, words, code=1)
        assert "there is no run" not in answer.err
        assert kdctl(f"eval {name} --runs nowhere").err == answer.err  # nor is a store missed
    kdctl("eval https://example.org/a.pth").refused("download the file", code=1)
    key = next(root.glob("*/plan.json")).parent.name
    monkeypatch.chdir(root)  # where the folder of the run is called by its key
    assert kdctl(f"eval {key} --threads 1 --runs {root}").code == 0
