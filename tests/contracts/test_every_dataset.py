"""What holds for every data set, whatever file it comes from."""

from __future__ import annotations

import dataclasses
import io
import re
import socket
import tarfile
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import (
    Dataset,
    DatasetOptions,
    ImageData,
    Split,
    StreamedSplit,
    canonical_order,
    datasets,
    fingerprint,
)
from kdctl.readers.selection import select
from kdctl.registry import Entry

ANY_FOLDER = "pictures"
"""What a data set is told that must be told where to look."""

pytestmark = pytest.mark.parametrize("entry", datasets.entries(), ids=lambda entry: entry.name)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every connection fail, so that a data set cannot fetch what it does not find."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _name: tmp_path / "cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of noise in class folders and tar shards, for data sets that read whatever they find."""
    rng = np.random.default_rng(0)
    for place, count in (("train", 12), ("test", 3)):
        for name in ("ant", "bee", "cat"):
            folder = tmp_path / "root" / ANY_FOLDER / place / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        pack(folder.parent, folder.parents[1] / f"{place}-0.tar")
    return tmp_path / "root"


def pack(split: Path, shard: Path) -> None:
    """Write the images of class folders into a tar shard, each beside its class."""
    with tarfile.open(shard, "w") as archive:
        for path in sorted(split.glob("*/*.png")):
            key, name = f"{path.parent.name}{path.stem}", path.parent.name
            archive.add(path, arcname=f"{key}.png")
            member = tarfile.TarInfo(f"{key}.cls")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))


def options_of(entry: Entry[type[Dataset]]) -> DatasetOptions:
    """Return the options of a recipe that says only what it must."""
    required = [
        field.name
        for field in dataclasses.fields(entry.config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return entry.config(**dict.fromkeys(required, ANY_FOLDER))


def outcome(entry: Entry[type[Dataset]], root: Path) -> ImageData | KdctlError:
    try:
        return entry.item.load(options_of(entry), root)
    except KdctlError as error:
        return error


def load(entry: Entry[type[Dataset]], root: Path) -> ImageData:
    data = outcome(entry, root)
    if isinstance(data, KdctlError):
        pytest.skip("needs data that do not come with kdctl")
    return data


def test_its_options_are_frozen_and_those_of_every_data_set(entry: Entry[type[Dataset]]) -> None:
    assert issubclass(entry.config, DatasetOptions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options_of(entry).num_classes = 3


def test_it_says_what_it_is(entry: Entry[type[Dataset]]) -> None:
    assert re.fullmatch(r"[^\n]{20,}\.", entry.summary)
    assert entry.item.load.__doc__


def test_a_published_fingerprint_is_a_sha256(entry: Entry[type[Dataset]]) -> None:
    published = entry.item.published_fingerprint
    assert published is None or re.fullmatch("[0-9a-f]{64}", published)


def test_data_that_are_missing_are_explained(entry: Entry[type[Dataset]], tmp_path: Path) -> None:
    error = outcome(entry, tmp_path / "empty")
    if isinstance(error, KdctlError):
        assert str(tmp_path / "empty") in error.problem
        assert error.hint.endswith(".")
    assert not (tmp_path / "empty").exists()


def test_its_arrays_are_what_the_protocol_says(entry: Entry[type[Dataset]], root: Path) -> None:
    data = load(entry, root)
    for split in (data.train, data.test):
        if isinstance(split, StreamedSplit):
            image = split.source.read(int(split.rows[0]))
            assert image.dtype == torch.uint8
            assert (image.dim(), image.shape[0]) == (3, 3)
            assert split.digests.shape == (len(split), 32)
        else:
            assert split.images.dtype == np.uint8
            assert split.images.shape == (len(split), data.input_size, data.input_size, 3)
        assert split.labels.dtype == np.int64
        assert np.unique(split.labels).tolist() == list(range(data.num_classes))
    assert all(0 <= value <= 1 for value in data.mean)
    assert all(0 < value <= 1 for value in data.std)


def test_its_images_stand_in_canonical_order(entry: Entry[type[Dataset]], root: Path) -> None:
    data = load(entry, root)
    for split in (data.train, data.test):
        if isinstance(split, StreamedSplit):
            keys = [(label, bytes(row)) for label, row in zip(split.labels, split.digests, strict=True)]
            assert keys == sorted(keys)
            continue
        ordered: Split = canonical_order(split)
        np.testing.assert_array_equal(ordered.images, split.images)
        np.testing.assert_array_equal(ordered.labels, split.labels)


def test_loading_twice_gives_the_same_fingerprint(entry: Entry[type[Dataset]], root: Path) -> None:
    published = entry.item.published_fingerprint
    once, again = fingerprint(load(entry, root)), fingerprint(load(entry, root))
    assert once == again
    assert published in {None, once}


def test_a_part_of_it_can_be_selected(entry: Entry[type[Dataset]], root: Path) -> None:
    options = dataclasses.replace(options_of(entry), num_classes=2, samples_per_class=10, val_fraction=0.2)
    selected = select(load(entry, root), options)
    assert selected.val is not None
    assert np.bincount(selected.train.labels).tolist() == [8, 8]
    assert np.bincount(selected.val.labels).tolist() == [2, 2]
    assert selected.num_classes == 2
