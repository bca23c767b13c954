from __future__ import annotations

from pathlib import Path

import pytest

from kdctl.working_folder import kept_working_folder, return_to, standing_in


def test_who_left_the_working_folder_is_brought_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with kept_working_folder():
        monkeypatch.chdir("/")
    assert Path.cwd() == tmp_path


def test_a_working_folder_that_was_moved_is_still_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    before = standing_in()
    (tmp_path / "project").rename(tmp_path / "renamed")
    return_to(before)
    assert Path.cwd() == tmp_path / "renamed"
