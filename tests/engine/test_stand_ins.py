"""Files from elsewhere: what they are is said, harmless data beside weights is read over, no code runs."""

from __future__ import annotations

import argparse
import collections
import contextlib
import gzip
import io
import os
import pickle
import subprocess
import types
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from kdctl.engine.checkpoint import read
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError

WEIGHTS = {"conv.weight": torch.ones(2, 3), "fc.weight": torch.zeros(1)}


class AverageMeter:
    """As training scripts keep one."""

    def __init__(self) -> None:
        self.sum = 3.0


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        (
            "a.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n",
            "pointer of Git LFS",
        ),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("a.pth", b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        ("a.th", b"\n <HTML><body>", "web page"),
        ("a.pth.gz", gzip.compress(saved(WEIGHTS)), "compressed by gzip"),
        ("a.pth", b"BZh91AY", "compressed by bzip2"),
        ("a.pth", b"\xfd7zXZ\0\0", "compressed by xz"),
        ("a.h5", b"\x89HDF\r\n", "HDF5"),
        ("a.npy", b"\x93NUMPY\x01", "array of NumPy"),
        ("a.pth", b"", "is empty"),
        ("a.pth", b"hello", "a file of text"),
        ("model.safetensors.index.json", b'{"weight_map": {"fc.weight": "a.safetensors"}}', "a file of text"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch", "a model in ONNX"),
        ("a.tflite", b"\x1c\0\0\0TFL3", "no file of torch or safetensors"),
        ("events.out.tfevents", b"\x18\0\0\0\xa3\x7fK", "no file of torch or safetensors"),
        ("a.pth", pickle.dumps([1, 2], protocol=4), "damaged|refused"),  # torch warns of the protocol
    ],
)
def test_what_is_no_file_of_weights_is_called_by_its_name(
    tmp_path: Path, name: str, data: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(data)
    for reading in (read_public_weights, read):
        with pytest.raises(KdctlError, match=complaint) as error:
            reading(tmp_path / name)
        assert error.value.hint
        if "refused" not in complaint:
            assert "foreign code" not in error.value.hint


def test_safetensors_are_known_by_what_they_hold(tmp_path: Path) -> None:
    for name in ("A.SAFETENSORS", "a.pth", "a"):
        safetensors.torch.save_file(WEIGHTS, tmp_path / name)
        assert read_public_weights(tmp_path / name).tensors.keys() == WEIGHTS.keys()
    header = b'{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(KdctlError, match=r"b\.safetensors"):
        read_public_weights(tmp_path / "b.safetensors")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1),
        types.SimpleNamespace(lr=0.1),
        np.int64(3),
        np.float32(0.5),
        np.arange(3),
        np.array(["a"]),
        np.bool_(1),
        PurePosixPath("a/b"),
        collections.defaultdict(list, {"a": [1]}),
        collections.Counter("ab"),
        {"when": __import__("datetime").datetime(2026, 1, 1)},
        AverageMeter(),
        [argparse.Namespace(path=Path("a"), best=np.float64(1))],
    ],
    ids=lambda value: type(value).__name__,
)
def test_harmless_data_beside_weights_are_read_over(tmp_path: Path, beside: Any, legacy: bool) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(saved({"opt": beside, "model": WEIGHTS}, _use_new_zipfile_serialization=not legacy))
    assert read_public_weights(path).tensors.keys() == WEIGHTS.keys()


def test_a_dictionary_with_defaults_may_hold_the_weights(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved({"model": collections.defaultdict(int, WEIGHTS)}))
    assert read_public_weights(tmp_path / "a.pth").tensors.keys() == WEIGHTS.keys()


class Calls:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "evil",
    [
        Calls(os.system, "touch pwned"),
        Calls(subprocess.check_call, ["touch", "pwned"]),
        Calls(eval, "open('pwned', 'w').close()"),
        Calls(open, "pwned", "w"),
        Calls(exec, "open('pwned', 'w').close()"),
        Calls(argparse.FileType("w"), "pwned"),
        Calls(Path.touch, Path("pwned")),
        Calls(zipfile.ZipFile, "pwned", "w"),
    ],
)
def test_no_code_of_a_file_runs_beside_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: Any, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_bytes(saved({"x": evil, "model": WEIGHTS}, _use_new_zipfile_serialization=not legacy))
    with contextlib.suppress(KdctlError):
        assert read_public_weights(Path("a.pth")).tensors.keys() == WEIGHTS.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth"]
    run = torch.load("a.pth", weights_only=False)["x"]
    if hasattr(run, "close"):
        run.close()
    assert Path("pwned").exists()  # the attack is a real one


def test_what_counting_operations_leaves_behind_is_no_weight(tmp_path: Path) -> None:
    counted = {"total_ops": torch.zeros(1), "conv.total_params": torch.zeros(1), **WEIGHTS}
    (tmp_path / "a.pth").write_bytes(saved(counted))
    assert read_public_weights(tmp_path / "a.pth").tensors.keys() == WEIGHTS.keys()


def test_one_of_two_models_is_read_by_its_prefix(tmp_path: Path) -> None:
    both = {
        f"module.{who}.{name}": value for who in ("student", "teacher") for name, value in WEIGHTS.items()
    }
    (tmp_path / "a.pth").write_bytes(saved(both))
    for prefix in ("module.student.", "module.student"):
        found = read_public_weights(tmp_path / "a.pth", prefix=prefix)
        assert found.tensors.keys() == WEIGHTS.keys()
    with pytest.raises(KdctlError, match=r"begins with 'module\.pupil'") as error:
        read_public_weights(tmp_path / "a.pth", prefix="module.pupil")
    assert "module.student., module.teacher." in error.value.hint
    renamed = read_public_weights(tmp_path / "a.pth", prefix="module.student.", renames={"fc": "head"})
    assert renamed.tensors.keys() == {"conv.weight", "head.weight"}
    with pytest.raises(KdctlError, match="several tensors have one name"):
        read_public_weights(tmp_path / "a.pth", prefix="module.student.", renames={"fc": "conv"})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, number: float) -> None:
    (tmp_path / "a.pth").write_bytes(saved({**WEIGHTS, "bn.weight": torch.tensor([1.0, number])}))
    with pytest.raises(KdctlError, match=r"in 1 of 3 tensors, the first is bn\.weight"):
        read_public_weights(tmp_path / "a.pth")


def test_archives_that_are_none_of_torch_are_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        for part in ("c/data.pkl", "c/code/__torch__.py", "c/constants.pkl", "c/version"):
            archive.writestr(part, "3")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * (64 << 20))
    for name, complaint in (
        ("a.npz", "npz"),
        ("b.zip", "zip archive"),
        ("c.pt", "TorchScript"),
        ("bomb.pth", "fill the memory"),
    ):
        for reading in (read_public_weights, read):
            with pytest.raises(KdctlError, match=complaint):
                reading(tmp_path / name)


def test_raw_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate([Calls(os.system, "touch pwned"), Calls(open, "pwned", "w"), {"a": 1}]):
        Path(f"{number}.pth").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(KdctlError):
            read_public_weights(Path(f"{number}.pth"))
    assert not Path("pwned").exists()
