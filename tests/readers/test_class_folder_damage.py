"""What lies in class folders and is no image there: counted and named, never dropped in silence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdctl.errors import KdctlError
from kdctl.readers.class_folders import (
    check_same_classes,
    decode_listing,
    list_class_folders,
    require_layout,
)
from kdctl.readers.image_listing import class_folders, list_images
from kdctl.readers.streamed_folders import StreamedOptions, load_streamed_folders

Counts = dict[str, int]


def counted_when_streamed(folder: Path) -> Counts:
    """Count the images of each class as the reader of streamed images finds them."""
    names = class_folders(folder)
    labels = list_images(folder, names).labels.tolist()
    return {name: labels.count(label) for label, name in enumerate(names)}


@pytest.fixture(params=["in memory", "streamed"])
def count(request: pytest.FixtureRequest) -> Callable[[Path], Counts]:
    """Both readers of class folders: what one refuses, the other refuses."""
    return (
        counted_when_streamed
        if request.param == "streamed"
        else lambda folder: list_class_folders(folder).counts()
    )


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (1, 2, 3)).save(path)
    return path


def test_an_image_one_folder_deeper_is_named(tmp_path: Path, count: Callable[[Path], Counts]) -> None:
    put(tmp_path / "apple" / "1.png")
    put(tmp_path / "apple" / "sub" / "deep" / "2.png")
    with pytest.raises(
        KdctlError, match=r"folders with images within folders of images: 1 \(apple/sub\)"
    ) as error:
        count(tmp_path)
    assert "move their images up" in error.value.hint
    (tmp_path / "apple" / "sub" / "deep" / "2.png").unlink()
    (tmp_path / "apple" / "sub" / "notes.txt").touch()
    assert count(tmp_path) == {"apple": 1}


def test_images_beside_the_classes_are_named(tmp_path: Path, count: Callable[[Path], Counts]) -> None:
    put(tmp_path / "apple" / "1.png")
    for number in range(5):
        put(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(KdctlError, match=r"images outside of the folders of images: 5 \(.*and 2 more\)"):
        count(tmp_path)


def test_pictures_in_formats_that_are_not_read_are_told_of(
    tmp_path: Path, count: Callable[[Path], Counts], caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "apple" / "1.png")
    for name in ("2.HEIC", "3.jp2", "notes.txt"):
        (tmp_path / "apple" / name).touch()
    assert count(tmp_path) == {"apple": 1}
    told = "formats that are not read are left out: 2 (apple/2.HEIC, apple/3.jp2)"
    assert [told in message for message in caplog.messages] == [True]


def test_pictures_by_other_names_and_archives_are_told_of(
    tmp_path: Path, count: Callable[[Path], Counts], caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "apple" / "1.png")
    content = (tmp_path / "apple" / "1.png").read_bytes()
    for name in ("2", "3.png?w=640", "4.png.1"):
        (tmp_path / "apple" / name).write_bytes(content)
    for name in ("apple/notes.txt", "apple/rest.zip", "pear.tar"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "apple" / "pipe")
    assert count(tmp_path) == {"apple": 1}
    told = "\n".join(caplog.messages)
    assert (
        "do not end as those of pictures are left out: 3 (apple/2, apple/3.png?w=640, apple/4.png.1)" in told
    )
    assert "apple/rest.zip" in told
    assert "pear.tar" in told
    assert "notes.txt" not in told


@pytest.mark.parametrize("name", ["Train", "training"])
def test_a_folder_that_may_be_meant_is_named(
    tmp_path: Path, name: str, count: Callable[[Path], Counts]
) -> None:
    put(tmp_path / name / "apple" / "1.png")
    with pytest.raises(KdctlError, match="there is no folder") as error:
        count(tmp_path / "train")
    assert f"is it {tmp_path / name}?" in error.value.hint
    put(tmp_path / "own" / "train" / "apple" / "1.png")
    with pytest.raises(KdctlError, match="there is no folder") as error:
        count(tmp_path / "own" / "train" / "train")
    assert f"the folder that holds train: {tmp_path / 'own'}" in error.value.hint


def test_classes_that_only_look_alike_are_called_so(tmp_path: Path) -> None:
    for train, test in (("caf\u00e9", "cafe\u0301"), ("Cat", "cat"), ("bee ", "bee")):
        with pytest.raises(KdctlError) as error:
            check_same_classes(tmp_path, ["ant", train], tmp_path, ["ant", test])
        assert "only in case, blanks or how an accent is stored" in error.value.hint
    with pytest.raises(KdctlError) as error:
        check_same_classes(tmp_path, ["ant", "bee"], tmp_path, ["ant", "cat"])
    assert "accent" not in error.value.hint


def test_classes_that_may_be_one_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["ant", "Cat", "cat", "caf\u00e9", "cafe\u0301"]
    check_same_classes(tmp_path, names[:2], tmp_path, names[:2])
    assert not caplog.messages
    check_same_classes(tmp_path, names, tmp_path, names)
    assert caplog.messages == [
        f"{tmp_path}: Cat, cat, caf\u00e9 and 1 more differ only in case, blanks or how an accent is stored; "
        "each is a class of its own"
    ]


def test_streamed_images_of_tiny_imagenet_are_called_by_their_name(tmp_path: Path) -> None:
    for place in ("train/n01/images", "val/images"):
        put(tmp_path / place / "1.png")
    (tmp_path / "val" / "val_annotations.txt").write_text("1.png\tn01\n")
    with pytest.raises(KdctlError, match="layout of Tiny-ImageNet"):
        load_streamed_folders(tmp_path, StreamedOptions(), cache=tmp_path / "cache")


def test_a_file_that_is_no_image_is_called_so(tmp_path: Path) -> None:
    put(tmp_path / "apple" / "1.png")
    (tmp_path / "apple" / "2.jpg").write_text("<html>not found</html>")
    with pytest.raises(KdctlError, match=r"2\.jpg \(no image\)"):
        decode_listing(list_class_folders(tmp_path), size=2, cache=tmp_path / "cache")


@pytest.mark.parametrize("kept", [0, 1])
def test_links_that_point_nowhere_are_counted(
    tmp_path: Path, count: Callable[[Path], Counts], kept: int
) -> None:
    put(tmp_path / "pear" / "1.png")
    (tmp_path / "apple").mkdir()
    for number in range(6):
        (tmp_path / "apple" / f"{number}.png").symlink_to(tmp_path / "gone.png")
    for number in range(kept):
        (tmp_path / "apple" / f"{number}.png").unlink()
        put(tmp_path / "apple" / f"{number}.png")
    with pytest.raises(KdctlError, match=rf"links that point nowhere: {6 - kept} \(apple/"):
        count(tmp_path)


def test_links_to_themselves_pipes_and_links_of_classes_are_named(tmp_path: Path) -> None:
    put(tmp_path / "apple" / "1.png")
    (tmp_path / "apple" / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "apple" / "pipe.png")
    os.mkfifo(tmp_path / "plum")
    (tmp_path / "pear").symlink_to("gone")
    (tmp_path / "fig").symlink_to("fig")
    with pytest.raises(KdctlError) as error:
        list_class_folders(tmp_path)
    assert "links that point nowhere: 3" in error.value.problem
    assert "entries that are neither files nor folders: 2" in error.value.problem
    assert "apple/self.png" in error.value.problem


def test_links_to_images_and_folders_are_as_good_as_these(
    tmp_path: Path, count: Callable[[Path], Counts]
) -> None:
    image = put(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "train" / "apple").mkdir(parents=True)
    (tmp_path / "train" / "apple" / "1.png").symlink_to(image)
    (tmp_path / "train" / "pear").symlink_to(image.parent)
    assert count(tmp_path / "train") == {"apple": 1, "pear": 1}


def test_images_beside_the_one_folder_that_is_read_are_named(tmp_path: Path) -> None:
    put(tmp_path / "n01" / "images" / "1.png")
    (tmp_path / "n01" / "n01_boxes.txt").touch()
    assert len(list_images(tmp_path, ["n01"], inner="images")) == 1
    put(tmp_path / "n01" / "2.png")
    put(tmp_path / "n01" / "more" / "3.png")
    with pytest.raises(KdctlError, match=r"1 \(n01/more\); images outside .*: 1 \(n01/2\.png\)"):
        list_images(tmp_path, ["n01"], inner="images")


def test_images_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    upright = np.zeros((2, 2, 3), dtype=np.uint8)
    upright[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    (tmp_path / "apple").mkdir()
    Image.fromarray(upright).save(tmp_path / "apple" / "1.png", exif=exif)
    split = decode_listing(list_class_folders(tmp_path), size=2, cache=tmp_path / "cache")
    assert np.array_equal(np.argwhere(split.images[0, :, :, 0] == 255), [[0, 1]])


def test_enormous_images_are_refused_in_memory_as_they_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "apple" / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    with pytest.raises(KdctlError, match=r"1 of 1 images in .* cannot be used: .*decompression bomb"):
        decode_listing(list_class_folders(tmp_path), size=2, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_layouts_are_called_by_their_name(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "own" / "train" / "apple" / "1.png")
    put(tmp_path / "own" / name / "apple" / "1.png")
    with pytest.raises(KdctlError, match=f"train and {name}, and no test") as error:
        require_layout(tmp_path / "own")
    assert f"rename {name} to test" in error.value.hint
    put(tmp_path / "tiny" / "train" / "n01" / "images" / "1.png")
    (tmp_path / "tiny" / "wnids.txt").touch()
    with pytest.raises(KdctlError, match="layout of Tiny-ImageNet") as error:
        require_layout(tmp_path / "tiny")
    assert "tinyimagenet" in error.value.hint
    put(tmp_path / "own" / "test" / "apple" / "1.png")
    require_layout(tmp_path / "own")
    assert [f"{name} is not read" in message for message in caplog.messages] == [True]
