"""The drawn images that a recipe is tried with."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest
import torch

from kdctl.datasets.streamedfolder import StreamedFolder
from kdctl.protocols.dataset import StreamedSplit
from kdctl.readers.sample_images import SAMPLE, sample_folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_they_are_the_same_wherever_they_are_drawn(tmp_path: Path) -> None:
    first, second = sample_folder(tmp_path / "one"), sample_folder(tmp_path / "two")
    assert len(content(first)) == 100
    assert content(first) == content(second)


def test_they_are_drawn_once_and_no_unfinished_folder_stays(tmp_path: Path) -> None:
    folder = sample_folder(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")}
    assert sample_folder(tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_data_set_at_this_path_needs_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _name: tmp_path / "cache")
    options = StreamedFolder.Config(path=SAMPLE, size=16, resize=20)
    data = StreamedFolder.load(options, tmp_path / "nowhere")
    assert isinstance(data.train, StreamedSplit)
    assert data.class_names == ("cross", "disc", "ring", "square")
    assert (len(data.train), len(data.test)) == (80, 20)
    assert data.train.source.read(0).dtype == torch.uint8
