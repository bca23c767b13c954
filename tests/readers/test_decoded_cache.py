from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import Split
from kdctl.readers import decoded_cache
from kdctl.readers.decoded_cache import cached, user_cache


class Decoder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Split:
        self.calls += 1
        images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
        return Split(images=images, labels=np.array([0, 1], dtype=np.int64))


def test_what_is_stored_is_not_decoded_again(tmp_path: Path) -> None:
    decode = Decoder()
    first = cached("key", decode, folder=tmp_path / "cache")
    second = cached("key", decode, folder=tmp_path / "cache")
    assert decode.calls == 1
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert second.images.dtype == np.uint8
    assert second.labels.dtype == np.int64


def test_another_key_is_decoded(tmp_path: Path) -> None:
    decode = Decoder()
    cached("one", decode, folder=tmp_path)
    cached("other", decode, folder=tmp_path)
    assert decode.calls == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "replaced", "packed", "encrypted"])
def test_a_damaged_entry_is_decoded_anew_and_mended(tmp_path: Path, damage: str) -> None:
    decode = Decoder()
    cached("key", decode, folder=tmp_path)
    (entry,) = tmp_path.iterdir()
    content = entry.read_bytes()
    place = content.index(bytes(range(24)))  # the pixels, which only a checksum protects
    table = content.index(b"PK\1\2")  # of contents
    damaged = {
        "cut": content[:-40],
        "flipped": content[:place] + b"\xff" + content[place + 1 :],
        "emptied": b"",
        "replaced": b"no archive at all",
        "packed": content[: table + 10] + b"\x61" + content[table + 11 :],  # by a method that nobody knows
        "encrypted": content[:6] + b"\1" + content[7 : table + 8] + b"\1" + content[table + 9 :],
    }
    entry.write_bytes(damaged[damage])
    again = cached("key", decode, folder=tmp_path)
    assert decode.calls == 2
    assert again.images[0, 0, 0].tolist() == [0, 1, 2]
    assert entry.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    assert len(cached("key", Decoder(), folder=occupied)) == 2


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    assert len(cached("key", Decoder(), folder=tmp_path)) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_home_has_a_cache_among_the_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def homeless(_name: str) -> Path:
        raise RuntimeError("could not determine the home directory for '~/.cache'")

    monkeypatch.setattr(decoded_cache.platformdirs, "user_cache_path", homeless)
    monkeypatch.setattr(decoded_cache.tempfile, "tempdir", str(tmp_path))
    place = user_cache()
    assert place.parent.parent == tmp_path
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert user_cache() == place
    other = place.parent.stat().st_uid + 1
    place.parent.rename(tmp_path / f"kdctl-{other}")
    monkeypatch.setattr(decoded_cache.os, "getuid", lambda: other)
    with pytest.raises(KdctlError, match="belongs to somebody else"):
        user_cache()
