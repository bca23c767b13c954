"""Images that are scaled once and kept."""

from __future__ import annotations

import errno
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from kdctl.errors import StoppedError
from kdctl.machine_errors import MachineError
from kdctl.protocols.dataset import ImageData, StreamedSplit
from kdctl.readers import scaled_images
from kdctl.readers.framing import scaled_down
from kdctl.readers.image_listing import ListedImages
from kdctl.readers.scaled_images import ScaledImages
from kdctl.readers.streamed_folders import StreamedOptions, load_streamed_folders

SIDE = 10
NUM_TRAIN = 10


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (random.integers(8, 30), random.integers(8, 30), 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaled_images, "_PART", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write five training and two validation images of each of two classes, of many sizes."""
    root = tmp_path / "data"
    for label, name in enumerate(("ant", "bee")):
        for number in range(5):
            write_image(root / "train" / name / f"{number}.jpg", 10 * label + number)
        for number in range(2):
            write_image(root / "val" / name / f"{number}.jpg", 50 + 10 * label + number)
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def loaded(folder: Path, cache: Path, **options: int) -> StreamedSplit:
    chosen = StreamedOptions(size=8, resize=10, **options)
    data: ImageData = load_streamed_folders(folder, chosen, cache=cache)
    assert isinstance(data.train, StreamedSplit)
    return data.train


def images(split: StreamedSplit) -> list[Tensor]:
    return [split.source.read(int(row)) for row in split.rows]


def parts(cache: Path) -> dict[str, int]:
    """Return the files of pixels, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in cache.glob("scaled-*/*.bin")}


def prepared(folder: Path, cache: Path) -> StreamedSplit:
    split = loaded(folder, cache, stored_side=SIDE)
    assert isinstance(split.source, ScaledImages)
    split.source.prepare(split.rows.tolist())
    return split


def test_what_is_stored_is_what_would_be_scaled_anew(folder: Path, cache: Path) -> None:
    plain = loaded(folder, cache)
    expected = [scaled_down(image, SIDE, "bilinear") for image in images(plain)]
    unprepared = loaded(folder, cache, stored_side=SIDE)
    assert parts(cache) == {}
    stored = prepared(folder, cache)
    assert len(parts(cache)) == 3  # of four images, the last of two
    for split in (unprepared, stored):
        assert split.labels.tolist() == plain.labels.tolist()
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(split), expected, strict=True))


def test_no_file_is_decoded_once_all_is_stored(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = images(prepared(folder, cache))
    again = loaded(folder, cache, stored_side=SIDE)

    def refuse(self: ListedImages, row: int) -> Tensor:
        raise AssertionError(f"image {row} was decoded")

    monkeypatch.setattr(ListedImages, "read", refuse)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(again), expected, strict=True))


def test_only_parts_that_are_gone_or_damaged_are_made_again(folder: Path, cache: Path) -> None:
    expected = images(prepared(folder, cache))
    before = parts(cache)
    (place,) = cache.glob("scaled-*")
    (place / "000000.npy").unlink()  # a build that was stopped between the two files
    with (place / "000002.bin").open("ab") as file:
        file.write(b"more")
    damaged = loaded(folder, cache, stored_side=SIDE)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(damaged), expected, strict=True))
    again = prepared(folder, cache)
    after = parts(cache)
    assert {name for name in after if after[name] != before[name]} == {"000000.bin", "000002.bin"}
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(again), expected, strict=True))


def flip_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def damaged(folder: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Check that no image of a store that was tampered with is wrong, and that it is mended with a word."""
    expected = [scaled_down(image, SIDE, "bilinear") for image in images(loaded(folder, cache))]
    before = parts(cache)
    split = loaded(folder, cache, stored_side=SIDE)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(split), expected, strict=True))
    again = prepared(folder, cache)
    assert "did not fit their checksums" in caplog.text
    assert len([name for name, time in parts(cache).items() if time != before[name]]) == 1
    caplog.clear()
    for split in (again, prepared(folder, cache)):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(split), expected, strict=True))
    assert not caplog.text


def test_a_byte_that_changed_is_noticed_and_its_part_made_again(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(folder, cache)
    (place,) = cache.glob("scaled-*")
    flip_byte(place / "000001.bin", 500)
    damaged(folder, cache, caplog)


def test_a_file_that_is_cut_short_while_it_is_in_use_is_read_past(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = prepared(folder, cache)
    expected = images(split)
    (path,) = cache.glob("scaled-*/000001.bin")
    os.truncate(path, 10)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(split), expected, strict=True))
    prepared(folder, cache)
    assert "did not fit their checksums" in caplog.text
    assert path.stat().st_size > 10


def test_two_images_whose_sizes_changed_places_are_noticed(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(folder, cache)
    (path,) = cache.glob("scaled-*/000001.npy")
    table = np.load(path)
    assert table[0, 0] != table[0, 1]
    table[0, :2] = table[0, 1::-1]
    np.save(path, table)
    damaged(folder, cache, caplog)


@pytest.mark.extended
def test_no_damage_to_a_table_is_an_error(folder: Path, cache: Path) -> None:
    split = prepared(folder, cache)
    expected = images(split)
    assert isinstance(split.source, ScaledImages)
    (path,) = cache.glob("scaled-*/000001.npy")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x54]) + whole[place + 1 :])
        split.source._open.clear()
        assert all(torch.equal(split.source.read(row), expected[row]) for row in range(4, 8))


def test_damage_is_read_past_where_nothing_may_be_written(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = images(prepared(folder, cache))
    (place,) = cache.glob("scaled-*")
    flip_byte(place / "000001.bin", 500)
    split = loaded(folder, cache, stored_side=SIDE)

    def refuse(path: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "replace", refuse)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(split), expected, strict=True))


def test_ctrl_c_drops_the_images_that_wait(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, decode = loaded(folder, cache, stored_side=SIDE), ListedImages.read
    read: list[int] = []

    def slowly(self: ListedImages, row: int) -> Tensor:
        time.sleep(0.02)
        read.append(row)
        return decode(self, row)

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(scaled_images, "_PART", 1024)
    monkeypatch.setattr(ScaledImages, "_require_room", lambda *_: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(ListedImages, "read", slowly)
    monkeypatch.setattr(scaled_images, "_checksum", interrupt)
    assert isinstance(split.source, ScaledImages)
    with pytest.raises(KeyboardInterrupt):
        split.source.prepare([0])
    assert len(read) < NUM_TRAIN // 2


def test_what_is_called_meanwhile_may_end_it_and_whole_parts_are_kept(folder: Path, cache: Path) -> None:
    split = loaded(folder, cache, stored_side=SIDE)
    calls: list[None] = []

    def stop_in_the_second_part() -> None:
        calls.append(None)
        if len(calls) == 6:
            raise StoppedError

    assert isinstance(split.source, ScaledImages)
    with pytest.raises(StoppedError):
        split.source.prepare(split.rows.tolist(), stop_in_the_second_part)
    assert list(parts(cache)) == ["000000.bin"]
    assert sorted(path.name for path in cache.glob("scaled-*/.*")) == [".lock"]


def test_parts_without_checksums_are_made_again(folder: Path, cache: Path) -> None:
    expected = images(prepared(folder, cache))
    for path in cache.glob("scaled-*/*.npy"):  # as kdctl 0.2.0 wrote them
        np.save(path, np.load(path)[:, :2])
    again = prepared(folder, cache)
    assert all(np.load(path).shape[1] == 3 for path in cache.glob("scaled-*/*.npy"))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(again), expected, strict=True))


def test_what_a_killed_build_left_unfinished_goes_with_the_next(folder: Path, cache: Path) -> None:
    prepared(folder, cache)
    (place,) = cache.glob("scaled-*")
    (place / "000001.bin").rename(place / ".000001.bin-x1y2z3")
    prepared(folder, cache)
    assert sorted(path.name for path in place.glob(".*")) == [".lock"]
    assert (place / "000001.bin").is_file()


def test_only_what_is_wanted_is_stored(folder: Path, cache: Path) -> None:
    split = loaded(folder, cache, stored_side=SIDE)
    assert isinstance(split.source, ScaledImages)
    split.source.prepare([1, 2])
    assert list(parts(cache)) == ["000000.bin"]


def test_several_that_want_them_at_once_wait_for_each_other(folder: Path, cache: Path) -> None:
    expected = [scaled_down(image, SIDE, "bilinear") for image in images(loaded(folder, cache))]
    splits = [loaded(folder, cache, stored_side=SIDE) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(split.source.prepare, range(NUM_TRAIN)) for split in splits]:
            future.result()
    for split in splits:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(images(split), expected, strict=True))
    assert not [path for path in cache.glob("scaled-*/.*") if path.name != ".lock"]


def test_a_process_that_waits_for_another_says_so(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scaled_images, "_SILENT_SECONDS", 0.01)
    monkeypatch.setattr(scaled_images, "SAVE_SECONDS", 0.02)
    monkeypatch.setattr(scaled_images, "_LOOK_SECONDS", 0.01)
    prepared(folder, cache)
    (place,) = cache.glob("scaled-*")
    (place / "000001.npy").unlink()
    with ThreadPoolExecutor(1) as pool, FileLock(place / ".lock"):
        future = pool.submit(prepared, folder, cache)
        while caplog.text.count("another process scales images into") < 3:  # else it counts as dead
            time.sleep(0.01)
    future.result()
    assert (place / "000001.npy").is_file()


def test_a_process_that_waits_for_another_may_be_stopped(folder: Path, cache: Path) -> None:
    split = prepared(folder, cache)
    (place,) = cache.glob("scaled-*")
    (place / "000001.npy").unlink()

    def stop() -> None:
        raise StoppedError

    assert isinstance(split.source, ScaledImages)
    with FileLock(place / ".lock"), pytest.raises(StoppedError):
        split.source.prepare(split.rows.tolist(), stop)


def test_small_images_are_not_taken_for_large_ones_where_room_is_short(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = images(loaded(folder, cache))
    room = SimpleNamespace(free=2 * sum(image.numel() for image in plain))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: room)
    split = loaded(folder, cache, stored_side=8192)
    assert isinstance(split.source, ScaledImages)
    split.source.prepare(split.rows.tolist())
    assert len(parts(cache)) == 3


def test_a_disk_without_room_is_told_before_anything_is_written(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=100))
    told = r"take about 0\.00 GB in .*, where 0\.00 GB are free"
    with pytest.raises(MachineError, match=told) as caught:
        prepared(folder, cache)
    assert parts(cache) == {}
    assert caught.value.hint.startswith("make room, lower data.stored_side")
    (cache / "scaled-of-old").mkdir()
    with (cache / "scaled-of-old" / "000000.bin").open("wb") as file:
        file.truncate(30_000_000)  # takes no room
    with pytest.raises(MachineError, match=told) as caught:
        prepared(folder, cache)
    assert "make room (0.03 GB of other scaled images beside it may be deleted), lower" in caught.value.hint


def test_a_disk_that_fills_up_meanwhile_is_told_by_the_name_of_the_file(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", refuse)
    with pytest.raises(MachineError, match=r"scaled-.*000000\.npy cannot be written \(No space left"):
        prepared(folder, cache)
    assert sorted(path.name for path in cache.glob("scaled-*/*")) == [".lock", "000000.bin"]


def test_a_cache_folder_that_may_not_be_written_is_told(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = loaded(folder, cache, stored_side=SIDE)
    assert isinstance(split.source, ScaledImages)

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(MachineError, match=r"scaled-\w+ cannot be written \(Permission denied\)"):
        split.source.prepare([0])
