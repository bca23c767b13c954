"""Result files: whole, or not there at all."""

from __future__ import annotations

import errno
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
