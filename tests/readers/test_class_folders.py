from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdctl.errors import KdctlError
from kdctl.readers import class_folders
from kdctl.readers.class_folders import check_same_classes, decode_listing, list_class_folders
from kdctl.readers.folder_entries import some_of


def put(path: Path, colour: tuple[int, int, int] = (1, 2, 3), *, size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)
    return path


def test_classes_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    put(tmp_path / "pear" / "1.png")
    put(tmp_path / "apple" / "1.png")
    put(tmp_path / "apple" / "2.PNG")
    listing = list_class_folders(tmp_path)
    assert listing.class_names == ("apple", "pear")
    assert [(file.path.name, file.label) for file in listing.files] == [
        ("1.png", 0),
        ("2.PNG", 0),
        ("1.png", 1),
    ]
    assert listing.counts() == {"apple": 2, "pear": 1}


def test_hidden_and_foreign_files_are_skipped(tmp_path: Path) -> None:
    put(tmp_path / "apple" / "1.png")
    put(tmp_path / "apple" / ".2.png")
    put(tmp_path / ".trash" / "3.png")
    (tmp_path / "apple" / "notes.txt").write_text("sour")
    (tmp_path / "labels.csv").write_text("apple")
    listing = list_class_folders(tmp_path)
    assert listing.class_names == ("apple",)
    assert [file.path.name for file in listing.files] == ["1.png"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(KdctlError, match=r"there is no folder .*train") as caught:
        list_class_folders(tmp_path / "train")
    assert "<class>" in caught.value.hint


def test_a_folder_without_classes_is_named(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    with pytest.raises(KdctlError, match="has no class folders"):
        list_class_folders(tmp_path)


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    put(tmp_path / "apple" / "1.png")
    (tmp_path / "pear").mkdir()
    with pytest.raises(KdctlError, match="without images: pear"):
        list_class_folders(tmp_path)


def test_classes_of_one_split_only_are_named(tmp_path: Path) -> None:
    for place in ("train/apple", "train/pear", "test/apple", "test/plum"):
        put(tmp_path / place / "1.png")
    train, test = list_class_folders(tmp_path / "train"), list_class_folders(tmp_path / "test")
    with pytest.raises(KdctlError, match=r"pear only in .*train; plum only in .*test"):
        check_same_classes(train.folder, train.class_names, test.folder, test.class_names)
    check_same_classes(train.folder, train.class_names, train.folder, train.class_names)


def test_pixels_come_in_canonical_order_whatever_the_files_are_called(tmp_path: Path) -> None:
    colours = [(0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50)]
    for number, colour in enumerate(colours):
        put(tmp_path / "one" / "apple" / f"{number}.png", colour)
        put(tmp_path / "other" / "apple" / f"{9 - number}.bmp", colour)
    one, other = (
        decode_listing(list_class_folders(tmp_path / name), size=4, cache=tmp_path / "cache")
        for name in ("one", "other")
    )
    np.testing.assert_array_equal(one.images, other.images)
    assert {tuple(image[0, 0].tolist()) for image in one.images} == {*colours}


def test_all_unreadable_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    put(tmp_path / "apple" / "good.png")
    for number in range(5):
        (tmp_path / "apple" / f"bad{number}.png").write_bytes(b"no image")
    with pytest.raises(KdctlError, match=r"5 of 6 images .*bad0\.png .* and 2 more"):
        decode_listing(list_class_folders(tmp_path), size=4, cache=tmp_path / "cache")


def test_an_image_of_another_size_is_an_error_unless_it_may_be_resized(tmp_path: Path) -> None:
    put(tmp_path / "data" / "apple" / "wide.png", size=6)
    listing = list_class_folders(tmp_path / "data")
    split = decode_listing(listing, size=4, cache=tmp_path / "cache", resize=True)
    assert split.images.shape == (1, 4, 4, 3)
    with pytest.raises(KdctlError, match=r"wide\.png \(6x6 pixels instead of 4x4\)"):
        decode_listing(listing, size=4, cache=tmp_path / "cache")


def test_images_that_no_memory_holds_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "data" / "apple" / "1.png")
    listing = list_class_folders(tmp_path / "data")
    monkeypatch.setattr(class_folders, "_memory_bytes", lambda: 90 * 2**20)
    with pytest.raises(KdctlError, match=r"1 images of 4096x4096 pixels in .* need 0\.1 GiB") as caught:
        decode_listing(listing, size=4096, cache=tmp_path / "cache", resize=True)
    assert "streamedfolder" in caught.value.hint
    decode_listing(listing, size=64, cache=tmp_path / "cache", resize=True)


def test_files_that_changed_are_decoded_again(tmp_path: Path) -> None:
    path = put(tmp_path / "data" / "apple" / "1.png", (1, 2, 3))
    cache = tmp_path / "cache"
    before = decode_listing(list_class_folders(tmp_path / "data"), size=4, cache=cache)
    status = path.stat()
    put(path, (3, 2, 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = decode_listing(list_class_folders(tmp_path / "data"), size=4, cache=cache)
    assert before.images[0, 0, 0].tolist() == [1, 2, 3]
    assert after.images[0, 0, 0].tolist() == [3, 2, 1]


def test_files_that_did_not_change_are_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "data" / "apple" / "1.png", (1, 2, 3))
    listing = list_class_folders(tmp_path / "data")
    decode_listing(listing, size=4, cache=tmp_path / "cache")
    monkeypatch.setattr(class_folders, "read_image", lambda path: pytest.fail(f"{path} is decoded"))
    assert decode_listing(listing, size=4, cache=tmp_path / "cache").images[0, 0, 0].tolist() == [1, 2, 3]


def test_other_images_of_the_same_names_sizes_and_times_are_decoded(tmp_path: Path) -> None:
    for place, colour in (("old", (1, 2, 3)), ("new", (3, 2, 1))):
        for number in range(40):
            os.utime(put(tmp_path / place / "apple" / f"{number}.bmp", colour), (0, 0))
    cache = tmp_path / "cache"
    found = [
        decode_listing(list_class_folders(tmp_path / place), size=4, cache=cache) for place in ("old", "new")
    ]
    assert [split.images[0, 0, 0].tolist() for split in found] == [[1, 2, 3], [3, 2, 1]]


def test_a_short_list_is_worded_in_full_and_a_long_one_counted() -> None:
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of(["a", "b", "c", "d"]) == "a, b, c and 1 more"
