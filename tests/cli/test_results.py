"""Result files: whole, or not there at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from kdctl.cli.results import write_result
from kdctl.errors import KdctlError


def test_a_result_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Path, _target: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(KdctlError, match="No space left on device"):
        write_result(tmp_path / "report.html", "<html>", force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_report(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")
    full_disk(1000)
    with pytest.raises(KdctlError, match="cannot be written") as caught:
        write_result(path, "<html>" * 1000, force=True)
    assert "free disk space" in caught.value.hint
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "older")]


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link, pipe = tmp_path / "real" / "table.csv", tmp_path / "table.csv", tmp_path / "pipe"
    target.write_text("older")
    link.symlink_to(target)
    with pytest.raises(KdctlError, match="is there already"):
        write_result(link, "new", force=False)
    write_result(link, "new", force=True)
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_result(pipe, "told", force=False)
    assert os.read(reader, 100) == b"told"
    os.close(reader)
    assert pipe.is_fifo()
