from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine import checkpoint
from kdctl.engine.checkpoint import DamagedCheckpointError, MisfitCheckpointError
from kdctl.errors import KdctlError
from kdctl.machine_errors import MachineError

PLAN = {"student": {"name": "resnet8"}, "seed": 3}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "last.pt"


class Spy:
    """What a file that attacks its reader holds: unpickling it would create a file."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._trace,))


def same_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_file_holds_what_torch_makes_of_its_content_and_is_hashed_on_the_way(path: Path) -> None:
    content = {"numbers": torch.arange(100_000.0), "tree": {"empty": {}, "list": [1, "two"]}}
    whole = io.BytesIO()
    torch.save(content, whole)
    sha256 = checkpoint.write(path, content)
    assert path.read_bytes() == whole.getvalue()
    assert sha256 == hashlib.sha256(whole.getvalue()).hexdigest()


@pytest.mark.parametrize("num_bytes", [0, 30, 1000, 300_000])
def test_a_disk_that_is_full_somewhere_in_a_file_leaves_the_one_before_it(
    path: Path, full_disk: Callable[[int], None], num_bytes: int
) -> None:
    checkpoint.write(path, {"number": 1})
    before = path.read_bytes()
    full_disk(num_bytes)
    with pytest.raises(MachineError, match="cannot be written"):
        checkpoint.write(path, {"numbers": torch.arange(100_000.0)}, previous=path.with_name("before.pt"))
    full_disk(2**30)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def records(content: bytes) -> list[tuple[int, int]]:
    """Return where the content of each part of a checkpoint begins and ends."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        spans = []
        for item in archive.infolist():
            lengths = content[item.header_offset + 26 : item.header_offset + 30]
            name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
            begin = item.header_offset + 30 + name + extra
            spans.append((begin, begin + item.compress_size))
        return spans


def test_what_is_written_is_read_with_its_plan_and_digest(model: nn.Module, path: Path) -> None:
    digest = checkpoint.write_model(path, model, PLAN)
    content = checkpoint.read_model(path)
    assert content.sha256 == digest
    assert content.plan == PLAN
    assert same_weights(dict(content.weights), model.state_dict())
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_equal_content_gives_equal_files(model: nn.Module, path: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "last.pt"
    assert checkpoint.write_model(path, model, PLAN) == checkpoint.write_model(again, model, PLAN)


def test_a_write_that_fails_leaves_the_earlier_file(
    model: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write_model(path, model, PLAN)
    before = path.read_bytes()

    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", refuse)
    with pytest.raises(KdctlError, match="No space left on device"):
        checkpoint.write_model(path, nn.Linear(2, 2), PLAN)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_explained(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(KdctlError, match="cannot be written"):
        checkpoint.write_model(tmp_path / "run" / "last.pt", model, PLAN)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(KdctlError, match="No such file") as caught:
        checkpoint.read_model(tmp_path / "nowhere.pt")
    assert not isinstance(caught.value, DamagedCheckpointError)


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "bare pickle"])
def test_code_in_a_checkpoint_is_refused_and_never_run(path: Path, tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "trace"
    path.parent.mkdir()
    content = {"format": checkpoint.FORMAT, "plan": "{}", "weights": Spy(trace)}
    if legacy:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(DamagedCheckpointError, match=r"refused|damaged"):
        checkpoint.read_model(path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if not legacy else pickle.loads(path.read_bytes())
    assert trace.exists()  # the attack is a real one


def test_a_truncated_file_is_damaged_wherever_it_ends(model: nn.Module, path: Path) -> None:
    checkpoint.write_model(path, model, PLAN)
    content = path.read_bytes()
    for length in range(0, len(content), 101):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCheckpointError):
            checkpoint.read_model(path)


def test_a_flipped_bit_is_damage_wherever_it_is(model: nn.Module, path: Path) -> None:
    checkpoint.write_model(path, model, PLAN)
    content = path.read_bytes()
    places = [place for begin, end in records(content) for place in range(begin, end, 13)]
    assert len(places) > 50
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(DamagedCheckpointError):
            checkpoint.read_model(path)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        {"0.weight": torch.zeros(3)},
        {"format": "other", "plan": "{}", "weights": {}},
        {"format": checkpoint.FORMAT, "plan": "{}"},
        {"format": checkpoint.FORMAT, "plan": 3, "weights": {}},
        {"format": checkpoint.FORMAT, "plan": "{", "weights": {}},
        {"format": checkpoint.FORMAT, "plan": '{"name": "\\ud800"}', "weights": {}},
        {"format": checkpoint.FORMAT, "plan": '{"rate": NaN}', "weights": {}},
        {"format": checkpoint.FORMAT, "plan": "{}", "weights": [torch.zeros(3)]},
    ],
    ids=[
        "tensor",
        "state dict",
        "format",
        "no weights",
        "plan",
        "broken plan",
        "half letter",
        "no number",
        "list of weights",
    ],
)
def test_a_file_that_torch_can_load_may_still_be_no_checkpoint_of_ours(content: Any, path: Path) -> None:
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(KdctlError, match="is not a kdctl checkpoint"):
        checkpoint.read_model(path)


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
    ],
    ids=["missing", "surplus", "reshaped"],
)
def test_weights_of_another_architecture_leave_the_model_as_it_was(
    other: nn.Module, model: nn.Module, path: Path
) -> None:
    checkpoint.write_model(path, other, PLAN)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(MisfitCheckpointError, match=r"another architecture: .* \(for example [012]"):
        checkpoint.load_weights(model, checkpoint.read_model(path).weights, path)
    assert same_weights(before, model.state_dict())


def test_weights_that_fit_are_loaded(model: nn.Module, path: Path) -> None:
    checkpoint.write_model(path, model, PLAN)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    checkpoint.load_weights(other, checkpoint.read_model(path).weights, path)
    assert same_weights(other.state_dict(), model.state_dict())


def test_a_plan_is_kept_as_canonical_json(model: nn.Module, path: Path) -> None:
    checkpoint.write_model(path, model, {"b": 1, "a": [1.5, None]})
    assert json.dumps(checkpoint.read_model(path).plan) == '{"a": [1.5, null], "b": 1}'


def test_a_folder_is_answered_with_the_key_of_the_run_that_it_may_be(path: Path) -> None:
    path.parent.mkdir()
    with pytest.raises(KdctlError, match="it is a folder, not a file") as caught:
        checkpoint.read_bytes(path.parent)
    assert caught.value.hint.endswith("if it is the folder of a run, the run by its key: run")
