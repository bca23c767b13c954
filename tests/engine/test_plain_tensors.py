"""Tensors from files of others: what no model has is refused before anything computes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdctl.engine.checkpoint import FORMAT, DamagedCheckpointError, read_model
from kdctl.engine.plain_tensors import difference, require_finite, require_plain
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError

ODD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (lambda: torch.ones(3, 3).to_sparse(), "sparse, quantized or nested"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), "sparse"),
    "meta": (lambda: torch.ones(3, device="meta"), "without its numbers"),
    "expanded": (lambda: torch.ones(1).expand(10**12), "1,000,000,000,000 numbers in a file of"),
    "uint64": (lambda: torch.ones(3, dtype=torch.uint64), "uint64"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")  # torch is about to drop quantized tensors
def test_a_tensor_that_no_model_has_is_refused(tmp_path: Path, kind: str) -> None:
    make, complaint = ODD[kind]
    path = tmp_path / "x.pt"
    torch.save({"a.weight": torch.ones(2), "b.weight": make()}, path)
    with pytest.raises(DamagedCheckpointError, match=rf"holds b\.weight in a form .* \({complaint}"):
        read_public_weights(path)
    torch.save({"format": FORMAT, "plan": "{}", "weights": {"b.weight": make()}}, path)
    with pytest.raises(DamagedCheckpointError, match=rf"holds b\.weight in a form .* \({complaint}"):
        read_model(path)


def test_eight_bits_are_looked_through_as_well() -> None:
    good = torch.ones(3).to(torch.float8_e5m2)
    require_plain({"a": good}, Path("x.pt"), 1000)
    require_finite({"a": good}, "x.pt")
    with pytest.raises(KdctlError, match="not finite"):
        require_finite({"a": torch.tensor([1.0, float("inf")]).to(torch.float8_e5m2)}, "x.pt")


def test_whole_and_complex_numbers_do_not_stand_for_real_ones() -> None:
    own = torch.ones(2, 3)
    assert difference(own.half(), own) == ""
    assert difference(own.T, own) == "is 3x2, not 2x3"
    assert difference(own.to(torch.int8), own) == "has numbers of int8, not of float32"
    assert difference(own.to(torch.complex64), own) == "has numbers of complex64, not of float32"
    assert difference(torch.tensor(1.0), torch.tensor(1)) == ""  # batches that were counted


@pytest.mark.parametrize("content", [b"junk", b"j\x01", b"\0" * 5000, b"\x80\x02K"])
def test_bytes_of_any_kind_are_damaged_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    for reading in (read_public_weights, read_model):
        with pytest.raises(DamagedCheckpointError):
            reading(tmp_path / "x.pt")


def test_a_file_of_zeros_is_told_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.pt").open("wb") as file:
        file.truncate(2**43)
    for reading in (read_public_weights, read_model):
        with pytest.raises(DamagedCheckpointError, match="damaged or no checkpoint"):
            reading(tmp_path / "x.pt")


def test_a_checkpoint_of_ours_needs_no_import(tmp_path: Path) -> None:
    torch.save({"format": FORMAT, "plan": "{}", "weights": {"a": torch.ones(1)}}, tmp_path / "x.pt")
    with pytest.raises(DamagedCheckpointError, match="kdctl wrote: it needs no import") as caught:
        read_public_weights(tmp_path / "x.pt")
    assert f"--teacher {tmp_path / 'x.pt'}" in caught.value.hint
