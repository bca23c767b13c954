"""Images in tar shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image

from kdctl.datasets.webdataset import WebDataset
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import ImageData, StreamedSplit, fingerprint
from kdctl.readers.streamed_folders import load_streamed_folders

Sample = tuple[str, bytes, str]
"""Name, encoded image, class as it is written."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _name: tmp_path / "cache")


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_shard(path: Path, samples: Iterable[Sample], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content, label in samples:
            add(archive, f"{name}.jpg", content)
            add(archive, f"{name}.cls", label.encode())


def samples(first: int, count: int, names: tuple[str, str]) -> list[Sample]:
    return [(f"s{number}", picture(number), names[number % 2]) for number in range(first, first + count)]


def load(folder: Path) -> ImageData:
    return WebDataset.load(WebDataset.Config(path=str(folder), size=8, resize=10), folder)


def write_both(folder: Path, names: tuple[str, str]) -> None:
    write_shard(folder / "train-000000.tar", samples(0, 4, names))
    write_shard(folder / "train-000001.tar", samples(4, 2, names))
    write_shard(folder / "val-000000.tar", samples(50, 2, names))


def test_they_are_the_images_that_were_packed_with_their_classes(tmp_path: Path) -> None:
    write_both(tmp_path, ("ant", "bee"))
    data = load(tmp_path)
    assert isinstance(data.train, StreamedSplit)
    assert data.class_names == ("ant", "bee")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = {torch.tensor(np.array(Image.open(io.BytesIO(picture(n))))).sum().item() for n in (0, 2, 4)}
    assert {data.train.source.read(int(row)).sum().item() for row in data.train.rows[:3]} == expected


def test_they_are_the_same_data_as_class_folders_of_these_images(tmp_path: Path) -> None:
    write_both(tmp_path / "shards", ("ant", "bee"))
    for split, chosen in (("train", samples(0, 6, ("ant", "bee"))), ("val", samples(50, 2, ("ant", "bee")))):
        for name, content, label in chosen:
            place = tmp_path / "folders" / split / label
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.jpg").write_bytes(content)
    options = WebDataset.Config(path="", size=8, resize=10)
    folders = load_streamed_folders(tmp_path / "folders", options)
    assert fingerprint(load(tmp_path / "shards")) == fingerprint(folders)


def test_classes_may_be_ranks_with_names_in_a_file(tmp_path: Path) -> None:
    write_both(tmp_path, ("0", "1"))
    assert load(tmp_path).class_names == ("0", "1")
    (tmp_path / "classes.txt").write_text("wasp\nant\n")
    named = load(tmp_path)
    assert named.class_names == ("wasp", "ant")
    assert named.test.labels.tolist() == [0, 1]


def test_shards_may_lie_in_folders_and_have_a_split_of_validation(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 20), ("test", 40)):
        write_shard(tmp_path / split / "a.tar", samples(first, 4, ("ant", "bee")))
    data = load(tmp_path)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (4, 4, 4)


def test_a_shard_that_is_cut_short_is_named(tmp_path: Path) -> None:
    write_both(tmp_path, ("ant", "bee"))
    path = tmp_path / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(KdctlError, match=r"train-000001\.tar"):
        load(tmp_path)


def test_a_shard_with_compression_is_named(tmp_path: Path) -> None:
    write_both(tmp_path, ("ant", "bee"))
    write_shard(tmp_path / "train-000002.tar", samples(7, 2, ("ant", "bee")), mode="w:gz")
    with pytest.raises(KdctlError, match=r"train-000002\.tar"):
        load(tmp_path)


def test_samples_that_are_no_pairs_are_named(tmp_path: Path) -> None:
    write_both(tmp_path, ("ant", "bee"))
    with tarfile.open(tmp_path / "train-000001.tar", "w") as archive:
        add(archive, "lonely.jpg", picture(1))
        add(archive, "blind.cls", b"ant")
    with pytest.raises(KdctlError) as caught:
        load(tmp_path)
    assert "lonely has no class" in caught.value.problem
    assert "blind has no image" in caught.value.problem


def test_a_class_that_only_the_test_has_is_named(tmp_path: Path) -> None:
    write_both(tmp_path, ("ant", "bee"))
    write_shard(tmp_path / "val-000000.tar", samples(50, 2, ("ant", "wasp")))
    with pytest.raises(KdctlError, match="wasp"):
        load(tmp_path)


def test_without_shards_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KdctlError, match="no shards of train"):
        load(tmp_path)
    write_shard(tmp_path / "train-0.tar", samples(0, 2, ("ant", "bee")))
    with pytest.raises(KdctlError, match="no shards of val or test"):
        load(tmp_path)
