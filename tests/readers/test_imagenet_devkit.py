"""Validation labels as ImageNet's development kit has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from kdctl.errors import KdctlError
from kdctl.readers.imagenet_devkit import GROUND_TRUTH
from kdctl.readers.streamed_folders import StreamedOptions, load_streamed_folders

FOLDERS = ("n01", "n02", "n03")
NUMBERS = {"n01": 3, "n02": 1, "n03": 2}
"""The kit's own: not the alphabetical order."""

LABELS = ("n03", "n01", "n02", "n01")
"""Of the validation images, by name."""


def write_image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 14, 3), shade, dtype=np.uint8)).save(path, format="JPEG")


def write_kit(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("num_children", "i4")]
    rows = [(NUMBERS[name], name, f"word of {name}", 0) for name in FOLDERS] + [(4, "n09", "all of them", 3)]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    (folder / GROUND_TRUTH).write_text("".join(f"{NUMBERS[name]}\n" for name in LABELS))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return ImageNet in little: class folders to train on, and flat validation images."""
    folder = tmp_path / "imagenet"
    for label, name in enumerate(FOLDERS):
        for number in range(2):
            write_image(folder / "train" / name / f"{name}_{number}.JPEG", 40 * label + number)
    for number, name in enumerate(LABELS, 1):
        path = folder / "val" / f"ILSVRC2012_val_{number:08}.JPEG"
        write_image(path, 200 + FOLDERS.index(name) * 10 + number)
    return folder


def shades_by_class(folder: Path, cache: Path) -> dict[str, list[int]]:
    """Return what is seen of each class: the shade tells which image it is."""
    data = load_streamed_folders(folder, StreamedOptions(size=8, resize=10), cache=cache)
    found: dict[str, list[int]] = {name: [] for name in data.class_names}
    for row, label in enumerate(data.test.labels.tolist()):
        shade = data.test.source.read(int(data.test.rows[row]))[0].float().mean()
        found[data.class_names[label]].append(round(float(shade)))
    return {name: sorted(shades) for name, shades in found.items()}


@pytest.mark.parametrize("place", ["", "val", "ILSVRC2012_devkit_t12/data"])
def test_images_get_the_class_that_the_kit_says(root: Path, place: str, tmp_path: Path) -> None:
    write_kit(root / place)
    assert shades_by_class(root, tmp_path / "cache") == {"n01": [202, 204], "n02": [213], "n03": [221]}


def test_numbers_without_their_meaning_are_refused(root: Path, tmp_path: Path) -> None:
    write_kit(root)
    (root / "meta.mat").unlink()
    with pytest.raises(KdctlError, match=r"no .*meta\.mat"):
        shades_by_class(root, tmp_path / "cache")


def test_a_missing_image_is_told(root: Path, tmp_path: Path) -> None:
    write_kit(root)
    (root / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    with pytest.raises(KdctlError, match="4 lines for 3 images"):
        shades_by_class(root, tmp_path / "cache")


def test_a_class_that_is_not_trained_on_is_told(root: Path, tmp_path: Path) -> None:
    write_kit(root)
    (root / GROUND_TRUTH).write_text("2\n3\n4\n3\n")  # 4 is no leaf
    with pytest.raises(KdctlError, match=r"1 line: line 3"):
        shades_by_class(root, tmp_path / "cache")


def test_a_damaged_kit_is_told(root: Path, tmp_path: Path) -> None:
    write_kit(root)
    (root / "meta.mat").write_bytes(b"no matrix")
    with pytest.raises(KdctlError, match=r"not the meta\.mat"):
        shades_by_class(root, tmp_path / "cache")
