"""Checking many image files, and being stopped meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdctl.readers import image_manifest
from kdctl.readers.image_listing import list_images
from kdctl.readers.image_manifest import file_digests

NUM_IMAGES = 40


def test_ctrl_c_drops_what_was_not_checked_and_keeps_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ant").mkdir()
    for number in range(NUM_IMAGES):
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(tmp_path / "ant" / f"{number}.png")
    listing = list_images(tmp_path, ["ant"])
    checked: list[str] = []

    def check(_: bytes, name: str) -> None:
        time.sleep(0.02)
        checked.append(name)

    def interrupt(_: int) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(image_manifest, "check_image", check)
    monkeypatch.setattr(image_manifest, "_CHUNK", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(image_manifest, "progress_reporter", lambda *_: interrupt)
        with pytest.raises(KeyboardInterrupt):
            file_digests(listing, tmp_path / "cache")
    assert 1 <= len(checked) < NUM_IMAGES // 2
    first = checked[0]
    assert len(file_digests(listing, tmp_path / "cache")) == NUM_IMAGES
    assert checked.count(first) == 1
    assert len(set(checked)) == NUM_IMAGES
