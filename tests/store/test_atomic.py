from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.store.atomic import write_atomically


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
