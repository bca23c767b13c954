"""Images in tar shards."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable
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


def test_ranks_are_ranks_though_classes_are_called_by_numbers(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-000000.tar", samples(0, 4, ("0", "1")))
    write_shard(tmp_path / "val-000000.tar", [("v", picture(50), "1")])  # a name, too, if it stood alone
    (tmp_path / "classes.txt").write_text("1\n2\n")
    data = load(tmp_path)
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 1, 1], [1])


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


@pytest.mark.timeout(30)
def test_a_file_of_negative_size_does_not_send_the_reader_round_in_circles(tmp_path: Path) -> None:
    write_both(tmp_path, ("ant", "bee"))
    header = bytearray(tarfile.TarInfo("notes.txt").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" + (-512).to_bytes(11, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    shard = tmp_path / "train-000001.tar"
    content = shard.read_bytes()
    first_file = 1024 + (len(picture(4)) - 1) // 512 * 512
    shard.write_bytes(content[:first_file] + bytes(header) + content[first_file:])
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


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "s4.jpg"
    return member


def damaged_header(content: bytes) -> bytes:
    """Spoil the block that tells of the second sample's image."""
    at = content.index(b"s5.jpg")
    return content[:at] + b"\xff" * 512 + content[at + 512 :]


def without_end(content: bytes) -> bytes:
    used = len(content.rstrip(b"\0"))
    return content[: used + -used % 512]


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda content: content[: content.index(b"s5.jpg")], "cut short: it lacks the zeros"),
        (without_end, "cut short: it lacks the zeros"),
        (lambda content: content[: content.index(b"s5.jpg") + 100], "cut short: it lacks the zeros"),
        (damaged_header, "damaged at byte"),
        (lambda content: content * 2, "something follows its end"),
        (lambda content: b"", "empty file"),
    ],
)
def test_no_sample_of_a_damaged_shard_is_left_out_in_silence(
    tmp_path: Path, harm: Callable[[bytes], bytes], complaint: str
) -> None:
    write_both(tmp_path, ("ant", "bee"))
    path = tmp_path / "train-000001.tar"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(KdctlError, match=complaint) as caught:
        load(tmp_path)
    assert str(path) in caught.value.problem


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([("s4.png", picture(9))], "s4 has two images"),
        ([("s4.cls", b"bee")], "s4 has two classes"),
        ([link("z.jpg", tarfile.LNKTYPE), ("z.cls", b"ant")], "z.jpg is a link"),
        ([link("z.jpg", tarfile.SYMTYPE), link("z.cls", tarfile.SYMTYPE)], "z.cls is a link"),
        ([("z.jpg", picture(9)), ("z.cls", b"\xe4")], "the class of z is not in UTF-8"),
        ([("z.jpg", picture(9)), ("z.cls", b" \n")], "the class of z is empty"),
    ],
)
def test_a_sample_that_would_be_lost_is_named(
    tmp_path: Path, members: list[tuple[str, bytes] | tarfile.TarInfo], complaint: str
) -> None:
    write_both(tmp_path, ("ant", "bee"))
    with tarfile.open(tmp_path / "train-000001.tar", "a") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                add(archive, *member)
    with pytest.raises(KdctlError, match=complaint):
        load(tmp_path)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (
            lambda place: (place / "train-000002.tar").symlink_to("nowhere"),
            "links that point nowhere: train-000002",
        ),
        (lambda place: os.mkfifo(place / "train-000002.tar"), "no files"),
        (
            lambda place: (place / "train-000002.tar.gz").write_bytes(b""),
            "compressed, .* train-000002.tar.gz",
        ),
        (lambda place: write_shard(place / "train" / "a.tar", ()), "in the folder train, and others beside"),
        (lambda place: (place / "classes.txt").write_bytes(b"\xe4\n"), "not a text file in UTF-8"),
        (lambda place: (place / "classes.txt").write_text("ant\n\nbee\n"), "empty lines"),
        (lambda place: (place / "classes.txt").write_text("ant\nbee\nant\n"), "names that come twice"),
        (lambda place: os.mkfifo(place / "classes.txt"), "classes.txt cannot be read: it is a named pipe"),
    ],
)
def test_what_lies_beside_good_shards_and_cannot_be_used_is_named(
    tmp_path: Path, harm: Callable[[Path], object], complaint: str
) -> None:
    write_both(tmp_path, ("ant", "bee"))
    harm(tmp_path)
    with pytest.raises(KdctlError, match=complaint):
        load(tmp_path)


@pytest.mark.parametrize("rank", ["20231105", "9" * 900])
def test_numbers_too_large_for_ranks_are_refused(tmp_path: Path, rank: str) -> None:
    write_both(tmp_path, ("0", rank))
    with pytest.raises(KdctlError, match="too large for ranks from 0"):
        load(tmp_path)


def test_digits_of_other_scripts_are_names(tmp_path: Path) -> None:
    write_both(tmp_path, ("²", "٣"))
    assert load(tmp_path).class_names == ("²", "٣")


def test_shards_that_lie_where_one_stands_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_both(tmp_path / "shards", ("ant", "bee"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KdctlError, match=r"data\.path = 'shards' is looked for below --data") as caught:
        WebDataset.load(WebDataset.Config(path="shards", size=8, resize=10), Path("data"))
    assert f"-o data.path={tmp_path / 'shards'}" in caught.value.hint
