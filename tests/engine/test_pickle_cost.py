"""Files whose parts are shared so often that hashing or printing never ends are refused; others are read."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdctl.engine.checkpoint import read
from kdctl.engine.pickle_cost import require_affordable
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError


def doubled(times: int) -> bytes:
    """Return instructions that put a tuple twice into the next, so many times."""
    return b")" + b"".join(
        b"q" + bytes([number]) + b"h" + bytes([number]) + b"\x86" for number in range(times)
    )


BOMBS = {
    "a key": b"\x80\x02}(" + doubled(60) + b"K\x01u.",
    "a key by itself": b"\x80\x02}" + doubled(60) + b"K\x01s.",
    "a name to be printed": b"\x80\x02}(" + doubled(28) + b"K\x01u.",
    "a value": b"\x80\x02}(X\x01\0\0\0a" + doubled(100) + b"u.",
    "a member of a set": b"\x80\x02c__builtin__\nset\n](" + doubled(60) + b"e\x85R.",
    "a key of many dictionaries": b"\x80\x02](" + doubled(20) + b"q\xff" + b"}h\xffNs" * 100_000 + b"e.",
}


def bare(path: Path, pickled: bytes) -> None:
    path.write_bytes(pickled)


def archived(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")


def fifth_pickle(path: Path, pickled: bytes) -> None:
    buffer = io.BytesIO()
    torch.save({}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue()[: -len(pickle.dumps([], 2))] + pickled)


@pytest.mark.parametrize("written", [bare, archived, fifth_pickle])
@pytest.mark.parametrize("pickled", BOMBS.values(), ids=BOMBS)
def test_parts_that_are_shared_without_end_are_refused_at_once(
    tmp_path: Path, pickled: bytes, written: Callable[[Path, bytes], None]
) -> None:
    written(tmp_path / "a.pt", pickled)
    with pytest.raises(pickle.UnpicklingError, match="repeats shared parts"):
        require_affordable((tmp_path / "a.pt").read_bytes())
    for reading in (read_public_weights, read):
        with pytest.raises(KdctlError, match=r"was refused|is damaged"):
            reading(tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "beside",
    [
        {(0, 1): "pair", 3: {1, 2}, b"raw": 2**70, "none": [None, True, 0.5, -1, 70_000]},
        [("conv", (3, 3))] * 20_000,
        tuple(range(100_000)),
        {"all": [{"lr": 0.1, "betas": (0.9, 0.999)}] * 1000},
    ],
    ids=["keys of each kind", "one tuple often", "a long tuple", "one dictionary often"],
)
def test_plain_values_are_read_as_before(tmp_path: Path, beside: Any, legacy: bool) -> None:
    content = {"beside": beside, "model": {"fc.weight": torch.ones(2)}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    assert read_public_weights(tmp_path / "a.pt").tensors.keys() == {"fc.weight"}
    if not legacy:
        assert read(tmp_path / "a.pt")[0]["beside"] == beside


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"\x80\x02}.", b"(", b"e.", b"\x80\x02h\x05.", b"\x8c\x01a.", b"\xff"]
)
def test_what_ends_early_or_is_no_pickle_is_left_to_its_reader(data: bytes) -> None:
    if data == b"PK":
        with pytest.raises(zipfile.BadZipFile):
            require_affordable(data)
    else:
        require_affordable(data)
