"""Files of weights from elsewhere: what is found in them, what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kdctl.engine.adopted_weights import COUNTER, adopt, fitting_models
from kdctl.engine.checkpoint import DamagedCheckpointError, MisfitCheckpointError
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError, UsageError
from kdctl.protocols.backbone import models

SIZE = 16


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(content: Any, name: str = "model.pth", **options: Any) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture
def original() -> nn.Module:
    torch.manual_seed(0)
    return models.get("resnet8").item(10, SIZE)


@pytest.fixture
def small(original: nn.Module, publish: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return its weights under public names."""
    return publish("resnet8", original)


def predictions(model: nn.Module) -> Tensor:
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.eval()(images)


def containers() -> Mapping[str, Callable[[Mapping[str, Tensor]], Any]]:
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
    return {
        "bare": dict,
        "RepDistiller": lambda w: {
            "epoch": 240,
            "model": w,
            "best_acc": torch.tensor(73.1),
            "optimizer": optimizer,
        },
        "SimKD": lambda w: {"epoch": 240, "model": w, "best_acc": np.float64(73.1)},
        "mdistiller": lambda w: {"model": w, "optimizer": optimizer, "best_acc": 73.1},
        "akamaster": lambda w: {"state_dict": {f"module.{n}": v for n, v in w.items()}, "best_prec1": 73.1},
        "kuangliu": lambda w: {"net": {f"module.{n}": v for n, v in w.items()}, "acc": 73.1, "epoch": 1},
        "compiled": lambda w: {f"_orig_mod.module.{n}": v for n, v in w.items()},
        "half": lambda w: {n: v.half() if v.is_floating_point() else v for n, v in w.items()},
        "without counters": lambda w: {n: v for n, v in w.items() if "num_batches" not in n},
    }


@pytest.mark.parametrize("kind", containers())
def test_the_weights_are_found_however_a_file_holds_them(
    kind: str, original: nn.Module, small: dict[str, Tensor], saved: Callable[..., Path]
) -> None:
    path = saved(containers()[kind](small))
    backbone = adopt(models.get("resnet8").item, read_public_weights(path), SIZE)
    tolerance = 0.02 if kind == "half" else 1e-5
    torch.testing.assert_close(predictions(backbone), predictions(original), rtol=tolerance, atol=tolerance)
    assert all(value.dtype in (torch.float32, torch.int64) for value in backbone.state_dict().values())


def test_files_of_old_versions_of_torch_are_read(
    original: nn.Module, small: dict[str, Tensor], saved: Callable[..., Path]
) -> None:
    path = saved(small, name="old.th", _use_new_zipfile_serialization=False)
    backbone = adopt(models.get("resnet8").item, read_public_weights(path), SIZE)
    torch.testing.assert_close(predictions(backbone), predictions(original))


def test_the_order_of_tensors_in_a_file_means_nothing(
    original: nn.Module, small: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"  # sorts them by name
    safetensors.torch.save_file({name: value.contiguous() for name, value in small.items()}, path)
    backbone = adopt(models.get("resnet8").item, read_public_weights(path), SIZE)
    torch.testing.assert_close(predictions(backbone), predictions(original))


def test_what_does_not_fit_is_listed(small: dict[str, Tensor], saved: Callable[..., Path]) -> None:
    weights = dict(small)
    weights["layer1.0.conv1.weight"] = weights["layer1.0.conv1.weight"][:8]
    weights["extra.weight"] = weights.pop("layer2.0.bn1.bias")
    path = saved(weights)
    with pytest.raises(MisfitCheckpointError) as caught:
        adopt(models.get("resnet8").item, read_public_weights(path), SIZE)
    for difference in (
        "layer1.0.conv1.weight is 8x16x3x3, not 16x16x3x3",
        "layer2.0.bn1.bias is missing",
        "extra.weight is left over",
    ):
        assert difference in caught.value.problem


def test_an_archive_that_claims_to_span_several_disks_is_damaged(saved: Callable[..., Path]) -> None:
    path = saved({"a.weight": torch.ones(2)})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x06\x07") + len(b"PK\x06\x07")] = 1
    path.write_bytes(data)
    with pytest.raises(DamagedCheckpointError, match="is damaged"):
        read_public_weights(path)


def test_a_long_list_of_differences_is_cut(small: dict[str, Tensor], saved: Callable[..., Path]) -> None:
    path = saved(small)
    with pytest.raises(MisfitCheckpointError, match=r"; and \d+ more\.") as caught:
        adopt(models.get("resnet110").item, read_public_weights(path), SIZE)
    assert caught.value.problem.count(";") == 8


@pytest.mark.extended
def test_a_model_is_recognised_by_names_and_shapes(
    small: dict[str, Tensor], saved: Callable[..., Path]
) -> None:
    weights = read_public_weights(saved(small))
    assert fitting_models(weights, 32) == ["resnet8"]


@pytest.mark.parametrize("name", ["resnet8", "resnet3", "mobilenetv2", "vgg8"])
@pytest.mark.extended
def test_the_state_dict_of_a_model_of_ours_is_taken_by_its_own_names(
    name: str, saved: Callable[..., Path]
) -> None:
    builder = models.get(name).item
    model = builder(7, SIZE)
    saved_as = {f"module.{key}": value for key, value in model.state_dict().items()}
    weights = read_public_weights(saved({k: v for k, v in saved_as.items() if not k.endswith(COUNTER)}))
    assert fitting_models(weights, SIZE) == [name]
    found = adopt(builder, weights, SIZE)
    assert found.num_classes == 7
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(found.eval()(images), model.eval()(images))


def test_a_model_that_nobody_publishes_is_refused(
    small: dict[str, Tensor], saved: Callable[..., Path]
) -> None:
    weights = read_public_weights(saved(small))
    with pytest.raises(UsageError, match="not known") as caught:
        adopt(models.get("resnet3").item, weights, SIZE)
    assert "public_names" in caught.value.hint


class _Pwned:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("pwned", "w"))


def test_code_in_a_file_is_never_run(
    original: nn.Module,
    small: dict[str, Tensor],
    saved: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [
        saved({"model": small, "args": _Pwned()}, name="zip.pth"),
        saved(_Pwned(), name="old.pth", _use_new_zipfile_serialization=False),
        saved(original, name="whole.pth"),
    ]
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Pwned(), protocol=2))
    for path in [*files, tmp_path / "raw.pth"]:
        with pytest.raises(KdctlError, match=path.name):
            read_public_weights(path)
    assert not (tmp_path / "pwned").exists()


def test_models_side_by_side_under_any_names_are_read_by_prefix(saved: Callable[..., Path]) -> None:
    student, teacher = {"a.weight": torch.zeros(2)}, {"a.weight": torch.ones(2)}
    path = saved({"student": student, "teacher": teacher, "epoch": 3})
    assert set(read_public_weights(path).tensors) == {"student.a.weight", "teacher.a.weight"}
    found = read_public_weights(path, prefix="teacher").tensors
    assert set(found) == {"a.weight"}
    assert found["a.weight"].tolist() == [1.0, 1.0]
    assert set(read_public_weights(saved({"params": student, "epoch": 3})).tensors) == {"a.weight"}


def test_an_exported_program_is_called_so(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "a.pt2")
    with pytest.raises(DamagedCheckpointError, match="a program that torch exported"):
        read_public_weights(tmp_path / "a.pt2")


def test_a_classifier_of_no_classes_is_one_difference_among_others(saved: Callable[..., Path]) -> None:
    weights = read_public_weights(saved({"fc.weight": torch.zeros(0, 64), "fc.bias": torch.zeros(0)}))
    with pytest.raises(MisfitCheckpointError, match="of another architecture"):  # and torch warns of nothing
        adopt(models.get("resnet8").item, weights, 32)


def test_files_without_weights_are_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DamagedCheckpointError, match="It holds: epoch, acc"):
        read_public_weights(saved({"epoch": 3, "acc": 0.5}))
    with pytest.raises(DamagedCheckpointError, match="no weights by name"):
        read_public_weights(saved([torch.zeros(2)]))
    with pytest.raises(DamagedCheckpointError, match=r"It holds: 0, 1, 2, 3, 4, 5, 6, 7, and 992 more\."):
        read_public_weights(saved(dict.fromkeys(range(1000), 0)))
    with pytest.raises(DamagedCheckpointError, match=r"model_state_dict\.$"):
        read_public_weights(saved({}))
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(DamagedCheckpointError, match="no safetensors file"):
        read_public_weights(tmp_path / "text.safetensors")
    safetensors.torch.save_file({}, tmp_path / "empty.safetensors")
    for empty in (tmp_path / "empty.safetensors", saved({"conv.total_ops": torch.zeros(1)})):
        with pytest.raises(DamagedCheckpointError, match="holds no weights"):
            read_public_weights(empty)
    with pytest.raises(KdctlError, match="cannot be read"):
        read_public_weights(tmp_path / "gone.pth")
    whole = saved({"model": {"a.weight": torch.randn(64, 64)}}).read_bytes()
    middle = len(whole) // 2
    (tmp_path / "flipped.pth").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(DamagedCheckpointError, match="damaged"):
        read_public_weights(tmp_path / "flipped.pth")
