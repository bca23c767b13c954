from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdctl.datasets.imagefolder import ImageFolder
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import datasets, fingerprint
from kdctl.readers.folder_entries import data_folder
from kdctl.recipe.component import LOCATION

CONFIG = datasets.get("imagefolder").config
COLOURS = {"ant": (10, 0, 0), "bee": (0, 0, 250)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdctl.datasets.imagefolder.user_cache", lambda: tmp_path / "cache")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes; per class two training images of different sizes and a test image."""
    for name, colour in COLOURS.items():
        for place, size in (
            ("train/{}/a.png", (8, 8)),
            ("train/{}/b.gif", (20, 12)),
            ("test/{}/c.webp", (4, 4)),
        ):
            path = tmp_path / "pets" / place.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, colour).save(
                path, **({"lossless": True} if path.suffix == ".webp" else {})
            )
    return tmp_path / "pets"


def test_images_of_any_format_and_size_become_squares(pets: Path) -> None:
    data = ImageFolder.load(CONFIG(path="pets", size=8), pets.parent)
    assert data.train.images.shape == (4, 8, 8, 3)
    assert data.test.images.shape == (2, 8, 8, 3)
    assert data.class_names == ("ant", "bee")
    for split in (data.train, data.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert (image == COLOURS[data.class_names[label]]).all()


def test_mean_and_deviation_are_those_of_the_training_pixels(pets: Path) -> None:
    data = ImageFolder.load(CONFIG(path="pets", size=8), pets.parent)
    np.testing.assert_allclose(data.mean, [5 / 255, 0, 125 / 255])
    np.testing.assert_allclose(data.std, [5 / 255, 1 / 255, 125 / 255])


def test_the_path_may_be_absolute(pets: Path) -> None:
    relative = ImageFolder.load(CONFIG(path="pets"), pets.parent)
    absolute = ImageFolder.load(CONFIG(path=str(pets)), Path("elsewhere"))
    assert fingerprint(relative) == fingerprint(absolute)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(KdctlError, match="there is no folder") as caught:
        ImageFolder.load(CONFIG(path="nothing"), tmp_path)
    assert str(tmp_path / "nothing") in caught.value.problem
    assert f"is looked for below --data {tmp_path}" in caught.value.problem
    assert caught.value.hint.endswith("or name another folder: --data.")


def test_a_folder_at_home_is_not_looked_for_below_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(KdctlError) as caught:
        data_folder("~/flowers", tmp_path)
    assert caught.value.problem == f"there is no folder {tmp_path / 'home' / 'flowers'}."
    (tmp_path / "home" / "flowers").mkdir(parents=True)
    assert data_folder("~/flowers", tmp_path) == tmp_path / "home" / "flowers"


def test_classes_must_be_the_same_in_both_splits(pets: Path) -> None:
    (pets / "test" / "bee").rename(pets / "test" / "wasp")
    with pytest.raises(KdctlError, match=r"bee only in .*; wasp only in"):
        ImageFolder.load(CONFIG(path="pets"), pets.parent)


def test_an_unreadable_image_is_named(pets: Path) -> None:
    (pets / "train" / "ant" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(KdctlError, match="1 of 4 images") as caught:
        ImageFolder.load(CONFIG(path="pets"), pets.parent)
    assert str(pets / "train" / "ant" / "a.png") in caught.value.problem


def test_where_the_images_lie_is_marked_as_a_location() -> None:
    marked = [field.name for field in dataclasses.fields(CONFIG) if LOCATION in field.metadata]
    assert marked == ["path"]


def test_a_recipe_must_say_where_the_images_lie() -> None:
    with pytest.raises(TypeError, match="path"):
        CONFIG()


def test_what_is_wrong_with_both_splits_is_told_at_once(pets: Path) -> None:
    for place in ("train/ant/a.png", "test/bee/c.webp"):
        (pets / place).write_bytes(b"no image")
    with pytest.raises(KdctlError) as error:
        ImageFolder.load(CONFIG(path="pets", size=8), pets.parent)
    told = [mistake.problem for mistake in error.value.mistakes]
    assert len(told) == 2
    assert "train" in told[0]
    assert "test" in told[1]
