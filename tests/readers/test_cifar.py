from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import canonical_order, fingerprint
from kdctl.readers.archive import without_network
from kdctl.readers.cifar import load_cifar

if TYPE_CHECKING:
    from conftest import TinyCifar


def test_every_layout_gives_the_same_data(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    tiny_cifar.write_pickles(tmp_path / "pickles")
    tiny_cifar.write_class_folders(tmp_path / "named" / "tiny")
    tiny_cifar.write_class_folders(tmp_path / "plain")
    fetched = dataclasses.replace(tiny_cifar.facts, archive=tiny_cifar.pack(tmp_path / "server"))
    loaded = {
        name: load_cifar(fetched, tmp_path / name, cache=tmp_path / "cache")
        for name in ("pickles", "named", "plain", "fetched")
    }
    expected = canonical_order(tiny_cifar.train)
    for data in loaded.values():
        np.testing.assert_array_equal(data.train.images, expected.images)
        np.testing.assert_array_equal(data.train.labels, expected.labels)
        assert data.class_names == ("ant", "bee", "cat")
        assert data.mean == (0.5, 0.5, 0.5)
    assert len({fingerprint(data) for data in loaded.values()}) == 1


def test_the_official_files_come_first_and_the_network_last(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    tiny_cifar.write_pickles(tmp_path)
    tiny_cifar.write_class_folders(tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "train" / "ant")
    load_cifar(tiny_cifar.facts, tmp_path, cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "tiny-python")
    with pytest.raises(KdctlError, match="it lacks ant"):
        load_cifar(tiny_cifar.facts, tmp_path, cache=tmp_path / "cache")


def test_data_that_are_nowhere_are_an_error_with_every_place(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    root = tmp_path / "data"
    with pytest.raises(KdctlError, match="the data set 'tiny' is nowhere") as caught:
        load_cifar(tiny_cifar.facts, root, cache=tmp_path / "cache")
    for place in (root / "tiny-python", root / "tiny", root / "{train,test}"):
        assert str(place) in caught.value.problem
    assert "no-network" in caught.value.problem
    assert str(root) in caught.value.hint


def test_a_class_with_too_few_files_is_named_with_its_count(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    tiny_cifar.write_class_folders(tmp_path)
    next((tmp_path / "train" / "bee").iterdir()).unlink()
    with pytest.raises(KdctlError, match=r"train should have 4 images of each class, but has 3 of bee\."):
        load_cifar(tiny_cifar.facts, tmp_path, cache=tmp_path / "cache")


def test_foreign_classes_are_named(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    tiny_cifar.write_class_folders(tmp_path)
    (tmp_path / "test" / "bee").rename(tmp_path / "test" / "wasp")
    with pytest.raises(KdctlError, match=r"test does not have the 3 classes .* lacks bee; it has wasp"):
        load_cifar(tiny_cifar.facts, tmp_path, cache=tmp_path / "cache")


def test_official_files_of_another_length_are_refused(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    tiny_cifar.write_pickles(tmp_path)
    facts = dataclasses.replace(tiny_cifar.facts, train_per_class=5)
    with pytest.raises(KdctlError, match="5 images of each class, but has 4 of ant"):
        load_cifar(facts, tmp_path, cache=tmp_path / "cache")


def test_one_altered_pixel_is_found(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    tiny_cifar.write_class_folders(tmp_path / "tiny")
    published = fingerprint(load_cifar(tiny_cifar.facts, tmp_path, cache=tmp_path / "cache"))
    facts = dataclasses.replace(tiny_cifar.facts, fingerprint=published)
    assert fingerprint(load_cifar(facts, tmp_path, cache=tmp_path / "cache")) == published
    path = next((tmp_path / "tiny" / "test" / "cat").iterdir())
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    with pytest.raises(KdctlError, match="not those of 'tiny' as published"):
        load_cifar(facts, tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize("place", ["", "tiny"])
def test_an_archive_that_lies_there_is_unpacked_and_the_network_left_alone(
    tmp_path: Path, tiny_cifar: TinyCifar, place: str
) -> None:
    archive = dataclasses.replace(
        tiny_cifar.pack(tmp_path / "server"), url="https://nowhere.invalid/tiny.tar.gz"
    )
    facts = dataclasses.replace(tiny_cifar.facts, archive=archive)
    root = tmp_path / "data"
    (root / place).mkdir(parents=True)
    (tmp_path / "server" / "tiny.tar.gz").rename(root / place / "tiny.tar.gz")
    with without_network():
        looked = fingerprint(load_cifar(facts, root))
    assert not (root / "tiny-python").exists()
    assert fingerprint(load_cifar(facts, root)) == looked
    assert sorted(path.name for path in (root / "tiny-python").iterdir()) == [
        "batch_1",
        "batch_2",
        "meta",
        "test",
    ]
    (root / place / "tiny.tar.gz").unlink()
    assert fingerprint(load_cifar(facts, root)) == looked


def test_an_archive_that_was_cut_short_is_named(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    archive = tiny_cifar.pack(tmp_path / "server")
    facts = dataclasses.replace(tiny_cifar.facts, archive=archive)
    path = tmp_path / "tiny.tar.gz"
    path.write_bytes((tmp_path / "server" / "tiny.tar.gz").read_bytes()[:-100])
    with pytest.raises(KdctlError, match=r"tiny\.tar\.gz is not the official archive: its MD5 is") as error:
        load_cifar(facts, tmp_path)
    assert "anew" in error.value.hint
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["server", "tiny.tar.gz"]
