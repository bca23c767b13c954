"""Result files: whole, or not there at all."""

from __future__ import annotations

import errno
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
