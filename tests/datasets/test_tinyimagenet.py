"""Tiny-ImageNet's original layout, with a few images of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import platformdirs
import pytest
from PIL import Image

from kdctl.datasets.tinyimagenet import TinyImageNet
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import ImageData

WNIDS = ("n01443537", "n01629819")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _name: tmp_path / "cache")
    random, folder = np.random.default_rng(0), tmp_path / "tiny-imagenet-200"
    lines: list[str] = []

    def draw(path: Path, mode: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path, format="JPEG")

    for rank, wnid in enumerate(WNIDS):
        for number in range(3):
            draw(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", "L" if number == 0 else "RGB")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 1 1\n")
        draw(folder / "val" / "images" / f"val_{rank}.JPEG", "RGB")
        lines.append(f"val_{rank}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def load(root: Path) -> ImageData:
    return TinyImageNet.load(TinyImageNet.Config(), root)


def test_the_original_layout_is_read_with_its_annotations(root: Path) -> None:
    data = load(root)
    assert data.class_names == WNIDS
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    assert data.input_size == 64
    assert data.train.source.read(0).shape == (3, 64, 64)  # the first is grey


def test_a_folder_without_annotations_is_refused(root: Path) -> None:
    (root / "tiny-imagenet-200" / "val" / "val_annotations.txt").unlink()
    with pytest.raises(KdctlError, match=r"there is no .*val_annotations\.txt"):
        load(root)


def test_nothing_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(KdctlError, match=r"nowhere: looked for .*tiny-imagenet-200"):
        load(tmp_path / "empty")
