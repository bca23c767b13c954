from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl.cli.import_weights import read_normalisation
from kdctl.engine.public_weights import PublicWeights, read_public_weights
from kdctl.errors import UsageError
from kdctl.protocols.backbone import models
from kdctl.recipe.imported import IMAGENET
from kdctl.workflows import importing

DIGITS = "--dataset digits -o data.size=8 --threads 1"

Kdctl = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, publish: Callable[..., dict[str, Tensor]]) -> str:
    torch.manual_seed(0)
    weights = publish("resnet8", models.get("resnet8").item(10, 8))
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "r8.th"
    )
    return "r8.th"


@pytest.mark.extended
def test_weights_are_imported_listed_evaluated_and_teach(kdctl: Kdctl, file: str) -> None:
    answer = kdctl(f"import-weights {file} --model resnet8 --mean imagenet {DIGITS}")
    assert answer.code == 0
    assert "top-1" in answer.out
    (row,) = json.loads(kdctl("list runs --format json").out)["rows"]
    assert (row["student"], row["method"], row["state"]) == ("resnet8", "imported", "finished")
    assert kdctl(f"eval {row['run']} --threads 1").code == 0
    taught = kdctl(
        f"train --teacher {row['run']} --student resnet3 --dataset digits -o data.size=8 "
        "-o data.samples_per_class=8 -o schedule.epochs=1 --threads 1 --quiet --format json"
    )
    (run,) = json.loads(taught.out)["runs"]
    assert run["result"]["teacher_test_top1"] == row["top1"]


@pytest.mark.extended
def test_a_file_that_does_not_fit_is_refused_with_the_differences(kdctl: Kdctl, file: str) -> None:
    answer = kdctl(f"import-weights {file} --model resnet14 {DIGITS}")
    answer.refused("layer1.1.conv1.weight is missing", "it fits --model resnet8", code=1)
    kdctl(f"import-weights gone.pth {DIGITS}").refused("gone.pth cannot be read", code=1)
    kdctl(f"import-weights {file} --model resnet9 {DIGITS}").refused("no model 'resnet9'", code=2)


def test_imagenet_stands_for_both_numbers() -> None:
    assert read_normalisation("imagenet", None) == IMAGENET
    assert read_normalisation(None, None) is None
    read = read_normalisation("0.5, 0.4,0.3", "0.2,0.2,0.1")
    assert read is not None
    assert (read.mean, read.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


@pytest.mark.parametrize(
    ("mean", "std", "complaint"),
    [
        ("0.5,0.5", "1,1,1", "--mean 0.5,0.5 is not three numbers"),
        ("0.5,0.5,0.5", None, "--std is missing"),
        (None, "1,1,1", "--mean is missing"),
        ("0.5,0.5,0.5", "1,0,1", "above 0"),
        ("imagenet", "1,1,1", "--mean imagenet is not three numbers"),
        ("129.3,124.1,112.4", "68.2,65.4,70.4", "pixels go from 0 to 1"),
        ("nan,0,0", "1,1,1", "pixels go from 0 to 1"),
        ("0,0,0", "inf,1,1", "pixels go from 0 to 1"),
    ],
)
def test_numbers_that_are_no_normalisation_are_refused(
    mean: str | None, std: str | None, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        read_normalisation(mean, std)


@pytest.mark.extended
def test_a_useless_file_costs_no_download_and_leaves_nothing(kdctl: Kdctl, tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(1)}, tmp_path / "useless.pth")
    (tmp_path / "page.pth").write_text("<!doctype html>")
    for name in ("useless.pth", "page.pth", "gone.pth"):
        kdctl(f"import-weights {name}").refused(name, code=1)  # cifar100 is not here
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.pth", "useless.pth"]


@pytest.mark.extended
def test_accuracy_of_chance_is_pointed_out_of_a_file_that_is_read_once(
    kdctl: Kdctl, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path, **options: Any) -> PublicWeights:
        read.append(path)
        return read_public_weights(path, **options)

    monkeypatch.setattr(importing, "read_public_weights", counted)
    answer = kdctl(f"import-weights {file} --model resnet8 {DIGITS}")
    assert answer.code == 0
    assert read == [Path(file)]
    assert "is about what chance gives (10.00 %)" in answer.err
    kdctl(f"import-weights {file} --rename =x {DIGITS}").refused("is no OLD=NEW", code=2)


def test_weights_that_are_not_finite_are_no_run(kdctl: Kdctl, file: str, tmp_path: Path) -> None:
    content = torch.load(tmp_path / file)
    content["state_dict"]["module.conv1.weight"][0] = float("inf")
    torch.save(content, tmp_path / file)
    answer = kdctl(f"import-weights {file} --model resnet8 {DIGITS}")
    answer.refused("not finite (NaN or infinity) in 1 of", "conv1.weight", "diverged", code=1)
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("conv1.weight", lambda weights: weights.double() * 1e300, "(NaN or infinity) in 1 of"),
        ("bn1.running_var", lambda weights: weights - 2, "outputs that are not finite"),
    ],
)
def test_finite_weights_that_compute_nothing_finite_are_no_run(
    kdctl: Kdctl, file: str, tmp_path: Path, name: str, spoil: Callable[[Tensor], Tensor], words: str
) -> None:
    content = torch.load(tmp_path / file)
    content["state_dict"][f"module.{name}"] = spoil(content["state_dict"][f"module.{name}"])
    torch.save(content, tmp_path / file)
    kdctl(f"import-weights {file} --model resnet8 {DIGITS}").refused(words, code=1)
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.extended
def test_one_of_two_models_in_a_file_is_named_by_its_prefix(
    kdctl: Kdctl, tmp_path: Path, publish: Callable[..., dict[str, Tensor]]
) -> None:
    models_in_it = {
        "student": models.get("resnet8").item(10, 8),
        "teacher": models.get("resnet14").item(10, 8),
    }
    weights = {
        f"module.{who}.{name}": value
        for who, model in models_in_it.items()
        for name, value in publish("resnet8" if who == "student" else "resnet14", model).items()
    }
    torch.save(weights, tmp_path / "both.pth")
    answer = kdctl(f"import-weights both.pth --model resnet8 {DIGITS}")
    answer.refused("has that model beside others: --prefix student.", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["both.pth"]
    for prefix in ("module.student.", "module.student", "student."):
        answer = kdctl(f"import-weights both.pth --model resnet8 --prefix {prefix} {DIGITS}")
        assert answer.code == 0
    assert len(json.loads(kdctl("list runs --format json").out)["rows"]) == 1
    kdctl(f"import-weights both.pth --prefix pupil {DIGITS}").refused(
        "has a name that begins with 'pupil'", "module.student., module.teacher.", code=2
    )
