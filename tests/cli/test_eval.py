from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TINY = "--dataset digits -o data.size=8 -o data.samples_per_class=8 -o schedule.epochs=1 --threads 1"

Kdctl = Callable[..., Any]


def only_run(kdctl: Kdctl) -> str:
    kdctl(f"train --student resnet3 {TINY} --quiet")
    return json.loads(kdctl("list runs --format json").out)["rows"][0]["run"]


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


def test_the_accuracy_on_each_class_is_shown_on_request(kdctl: Kdctl) -> None:
    key = only_run(kdctl)
    assert "class " not in kdctl(f"eval {key} --threads 1").out
    lines = kdctl(f"eval {key} --threads 1 --per-class").out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("class "))
    assert [line.split()[0] for line in lines[start + 1 :]] == list("0123456789")


def test_a_checkpoint_is_evaluated_where_there_is_no_store(kdctl: Kdctl, tmp_path: Path) -> None:
    key = only_run(kdctl)
    shutil.move(tmp_path / "runs" / key / "last.pt", tmp_path / "model.pt")
    shutil.rmtree(tmp_path / "runs")
    answer = kdctl("eval model.pt --threads 1")
    assert answer.code == 0
    assert "model, on test" in answer.out
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_evaluated_is_refused(kdctl: Kdctl, tmp_path: Path) -> None:
    kdctl("eval abcd1234").refused("no database", code=1)
    assert list(tmp_path.iterdir()) == []
    key = only_run(kdctl)
    kdctl(f"eval {key} --split val").refused("no validation split", "val_fraction", code=2)
    kdctl("eval abcd1234").refused("no run 'abcd1234'", "kdctl list runs", code=1)
    torch.save({"code": print}, tmp_path / "code.pt")
    kdctl("eval code.pt").refused("code.pt was refused", code=1)
    (tmp_path / "text.pt").write_text("hello")
    kdctl("eval text.pt").refused("text.pt is damaged", code=1)


def test_the_model_and_its_features_are_written_on_request(kdctl: Kdctl, tmp_path: Path) -> None:
    key = only_run(kdctl)
    answer = kdctl(f"eval {key} --export model.pt2 --features features.npz --threads 1")
    assert answer.code == 0
    assert answer.err.splitlines() == ["wrote model.pt2", "wrote features.npz"]
    assert (tmp_path / "model.pt2").stat().st_size > 0
    assert (tmp_path / "features.npz").stat().st_size > 0
    kdctl(f"eval {key} --export model.tflite").refused("model.tflite", "*.onnx or *.pt2", code=2)
    kdctl(f"eval {key} --features features.csv").refused("features.csv", "*.npz", code=2)
