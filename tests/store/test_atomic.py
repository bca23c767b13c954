from __future__ import annotations

import errno
import functools
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.machine_errors import MachineError
from kdctl.store.atomic import write_atomically, written_together


def test_content_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"

    write_atomically(path, b"old")
    write_atomically(path, b"new")

    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    not_bytes: Any = "text"

    with pytest.raises(TypeError):
        write_atomically(path, not_bytes)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_neither_file_nor_folder(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    full_disk(1000)
    with pytest.raises(MachineError, match=r"new/folder/file cannot be written"):
        write_atomically(tmp_path / "new" / "folder" / "file", b"a" * 2000)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folders_refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes folders refuse to be synchronised, with an error number."""
    before = os.fsync

    def fsync(descriptor: int, number: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        before(descriptor)

    return lambda number: monkeypatch.setattr(os, "fsync", functools.partial(fsync, number=number))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_need_not_know_how_to_synchronise_a_folder(
    tmp_path: Path, folders_refuse: Callable[[int], None], number: int
) -> None:
    folders_refuse(number)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_folder_that_fails_while_it_is_synchronised_is_named(
    tmp_path: Path, folders_refuse: Callable[[int], None]
) -> None:
    folders_refuse(errno.EIO)
    with pytest.raises(MachineError, match=f"{tmp_path} cannot be written"):
        write_atomically(tmp_path / "file", b"new")


def test_a_folder_need_not_be_listed_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # as mode 0300 does, but for root
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def write_all(contents: dict[Path, bytes]) -> None:
    with written_together() as write:
        for path, content in contents.items():
            write(path, content)
            assert not path.exists() or path.read_bytes() == b"old"


def test_of_files_that_are_written_together_one_that_fails_leaves_all_as_they_were(
    tmp_path: Path, full_disk: Callable[[int], None]
) -> None:
    write_atomically(tmp_path / "a", b"old")
    full_disk(1000)
    contents = {tmp_path / "a": b"new", tmp_path / "folder" / "b": b"b"}
    with pytest.raises(MachineError, match="cannot be written"):
        write_all({**contents, tmp_path / "folder" / "more" / "c": b"c" * 2000})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]

    with written_together() as write:
        write(tmp_path / "parts", iter([b"one", b"two"]))
    assert (tmp_path / "parts").read_bytes() == b"onetwo"
    write_all(contents)
    assert {path: path.read_bytes() for path in contents} == contents


def test_a_killed_writer_leaves_one_whole_version(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    size = 3_000_000
    path = tmp_path / "file"
    process = start("write_forever.py", path, size)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()

    process.kill()
    process.wait()

    assert path.read_bytes() in {b"a" * size, b"b" * size}
