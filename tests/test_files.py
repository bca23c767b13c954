from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdctl.files import is_file, is_gone, open_file, read_file, size_of, unreadable


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Path]:
    """Everything that may lie where a file should be."""
    places = {
        "it is a folder": tmp_path / "folder",
        "it is a named pipe": tmp_path / "pipe",
        "symbolic links": tmp_path / "loop",
        "it is a device": Path("/dev/zero"),
        "can have this name": tmp_path / "a\0b",
    }
    places["it is a folder"].mkdir()
    os.mkfifo(places["it is a named pipe"])
    places["symbolic links"].symlink_to("loop")
    return places


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"content"
    assert (is_file(tmp_path / "link"), is_gone(tmp_path / "link"), size_of(tmp_path / "link")) == (
        True,
        False,
        7,
    )


@pytest.mark.timeout(10)
def test_what_is_no_file_says_what_it_is_and_never_waits(odd: dict[str, Path]) -> None:
    for what, path in odd.items():
        with pytest.raises(OSError, match=what) as error:
            open_file(path)
        assert not isinstance(error.value, FileNotFoundError)
        assert not is_file(path)
        assert size_of(path) == 0
        assert what in unreadable(path, error.value).problem


def test_only_what_is_not_there_is_gone(odd: dict[str, Path], tmp_path: Path) -> None:
    assert {what for what, path in odd.items() if is_gone(path)} == {"can have this name"}
    assert is_gone(tmp_path / "nothing")
    (tmp_path / "file").touch()
    assert is_gone(tmp_path / "file" / "below")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nothing")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match=r"1,099,511,627,776 bytes"):
        read_file(tmp_path / "large", at_most=1000)
