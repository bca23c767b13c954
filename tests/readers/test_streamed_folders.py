"""Layouts of large data sets, and what is wrong with some of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdctl.datasets.streamedfolder import StreamedFolder
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import ImageData, fingerprint
from kdctl.readers import image_manifest
from kdctl.readers.streamed_folders import StreamedOptions, load_streamed_folders, read_labels

OPTIONS = StreamedOptions(size=8, resize=10)

CLASSES = ("ant", "bee")


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write three training and two validation images of each class in class folders."""
    root = tmp_path / "data"
    for label, name in enumerate(CLASSES):
        for number in range(3):
            write_image(root / "train" / name / f"{number}.JPEG", 10 * label + number)
        for number in range(2):
            write_image(root / "val" / name / f"v{label}{number}.JPEG", 100 + 10 * label + number)
    return root


@pytest.fixture
def load(folder: Path, tmp_path: Path) -> Callable[[], ImageData]:
    return lambda: load_streamed_folders(folder, OPTIONS, cache=tmp_path / "cache")


def lay_flat(folder: Path) -> None:
    """Put the validation images side by side."""
    for path in sorted((folder / "val").glob("*/*")):
        path.rename(folder / "val" / path.name)
    for name in CLASSES:
        (folder / "val" / name).rmdir()


Load = Callable[[], ImageData]


def test_class_folders_give_both_splits_their_labels(load: Load) -> None:
    data = load()
    assert data.class_names == CLASSES
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.val is None
    assert data.input_size == 8
    assert data.train.source.read(0).shape == (3, 12, 14)


def test_a_third_folder_is_the_validation_split(folder: Path, load: Load) -> None:
    for name in CLASSES:
        write_image(folder / "test" / name / "t.png", 300)
    data = load()
    assert data.val is not None
    assert (len(data.val), len(data.test)) == (4, 2)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("val.txt", "{image} {label}"),
        ("val.txt", "{image} {rank}"),
        ("val_annotations.txt", "{image}\t{label}\t0\t0\t62\t61"),
        ("LOC_val_solution.csv", "{stem},{label} 1 2 3 4 {label} 5 6 7 8"),
    ],
)
def test_flat_images_get_their_labels_from_a_file(folder: Path, load: Load, name: str, line: str) -> None:
    expected = fingerprint(load())
    rows = ["ImageId,PredictionString"] if name.endswith("csv") else []
    for rank, label in enumerate(CLASSES):
        for number in range(2):
            image = f"v{rank}{number}.JPEG"
            rows.append(line.format(image=image, stem=image[:-5], label=label, rank=rank))
    lay_flat(folder)
    (folder / "val" / name).write_text("\n".join(rows) + "\n")
    assert fingerprint(load()) == expected


@pytest.mark.parametrize(
    ("classes", "written", "ranks"),
    [
        (("1", "2", "3"), ("1", "2", "3"), (0, 1, 2)),
        (("1", "2", "3"), ("2", "2", "2"), (1, 1, 1)),
        (("1", "2", "3"), ("0", "1", "2"), (0, 1, 2)),
        (("0", "1", "10", "2"), ("0", "10", "2"), (0, 2, 3)),
        (("ant", "bee"), ("bee", "0", "1"), (1, 0, 1)),
    ],
)
def test_classes_called_by_numbers_are_named_by_them_and_not_by_ranks(
    tmp_path: Path, classes: tuple[str, ...], written: tuple[str, ...], ranks: tuple[int, ...]
) -> None:
    lines = [f"{number}.jpg {label}" for number, label in enumerate(written)]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    assert tuple(read_labels(tmp_path / "val.txt", classes).values()) == ranks


def test_names_of_numbers_and_ranks_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("a.jpg 0\nb.jpg 3\n")
    with pytest.raises(KdctlError, match="names no class of the training set in 1 line: line 1"):
        read_labels(tmp_path / "val.txt", ("1", "2", "3"))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("\ufeffImageId,PredictionString\na,bee 1 2 3 4\n", "utf-8")
    assert read_labels(tmp_path / "val.txt", CLASSES) == {"a": 1}


def test_the_fingerprint_follows_content_and_class_not_names(folder: Path, load: Load) -> None:
    before = fingerprint(load())
    (folder / "train" / "ant" / "0.JPEG").rename(folder / "train" / "ant" / "zebra.jpg")
    assert fingerprint(load()) == before
    (folder / "train" / "ant" / "zebra.jpg").rename(folder / "train" / "bee" / "zebra.jpg")
    assert fingerprint(load()) != before


def test_files_are_hashed_once_and_again_when_they_change(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(image_manifest, "check_image", lambda _, name: read.append(Path(name).name))
    before = fingerprint(load())
    assert len(read) == 10
    assert fingerprint(load()) == before
    assert len(read) == 10
    write_image(folder / "train" / "bee" / "1.JPEG", 77)
    write_image(folder / "train" / "bee" / "new.JPEG", 78)
    assert fingerprint(load()) != before
    assert sorted(read[10:]) == ["1.JPEG", "new.JPEG"]


def test_files_that_others_of_their_size_and_time_replaced_are_hashed_again(folder: Path, load: Load) -> None:
    def write_all(value: int) -> None:
        for number, path in enumerate(sorted(folder.glob("*/*/*"))):
            pixels = np.full((12, 14, 3), value + number, dtype=np.uint8)
            Image.fromarray(pixels).save(path, format="BMP")
            os.utime(path, (0, 0))

    write_all(10)
    before = load().train.digests
    write_all(100)
    assert not (load().train.digests == before).all(axis=1).any()


def test_an_image_that_another_one_replaced_in_training_is_not_trained_on(folder: Path, load: Load) -> None:
    train = load().train
    for path in (folder / "train").glob("*/*"):
        write_image(path, 500)
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(OSError, match="another size than when it was listed"):
        train.source.read(0)


def test_a_damaged_manifest_is_made_again(load: Load, tmp_path: Path) -> None:
    before = fingerprint(load())
    for path in (tmp_path / "cache").glob("manifest-*"):
        path.write_bytes(b"PK nothing")
    assert fingerprint(load()) == before


def nested(folder: Path) -> None:
    write_image(folder / "train" / "ant" / "more" / "1.jpg", 1)


def dangling(folder: Path) -> None:
    (folder / "train" / "ant" / "9.jpg").symlink_to("nowhere.jpg")


def outside(folder: Path) -> None:
    write_image(folder / "train" / "1.jpg", 1)


def outside_of_val(folder: Path) -> None:
    write_image(folder / "val" / "1.jpg", 1)


def no_class(folder: Path) -> None:
    lay_flat(folder)


def lacking_label(folder: Path) -> None:
    lay_flat(folder)
    (folder / "val" / "val.txt").write_text("v00.JPEG 0\nv01.JPEG 0\nv10.JPEG 1\n")


def lacking_image(folder: Path) -> None:
    lay_flat(folder)
    lines = [f"v{rank}{number}.JPEG {rank}\n" for rank in range(2) for number in range(2)]
    (folder / "val" / "val.txt").write_text("".join([*lines, "v99.JPEG 1\n"]))


def foreign_label(folder: Path) -> None:
    lay_flat(folder)
    (folder / "val" / "val.txt").write_text("v00.JPEG wasp\n")


def contrary_label(folder: Path) -> None:
    lay_flat(folder)
    (folder / "val" / "val.txt").write_text("v00.JPEG 0\nv01.JPEG 0\nv00.JPEG 1\n")


def no_table(folder: Path) -> None:
    lay_flat(folder)
    (folder / "val" / "val.txt").write_text(f"v00.JPEG {'0' * 200_000}\n")


def other_classes(folder: Path) -> None:
    (folder / "val" / "bee").rename(folder / "val" / "wasp")


def empty_class(folder: Path) -> None:
    (folder / "train" / "cat").mkdir()
    (folder / "val" / "cat").mkdir()


def bad_images(folder: Path) -> None:
    path = folder / "train" / "ant" / "0.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    (folder / "train" / "bee" / "2.JPEG").write_text("no image")


def no_test_split(folder: Path) -> None:
    (folder / "val").rename(folder / "validation")


def lost_validation(folder: Path) -> None:
    (folder / "val").rename(folder / "test")
    (folder / "val").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (nested, r"folders with images within folders of images: 1 \(ant.more\)"),
        (dangling, r"links that point nowhere: 1 \(ant.9\.jpg\)"),
        (outside, r"train has images outside of the folders of images: 1 \(train.1\.jpg\)"),
        (outside_of_val, r"val has images outside of the folders of images: 1 \(val.1\.jpg\)"),
        (no_class, "side by side, and nothing says of which class"),
        (lacking_label, r"gives no class for 1 of 4 images .*v11\.JPEG"),
        (lacking_image, r"lacks 1 of 5 images .*v99\.JPEG"),
        (foreign_label, "names no class of the training set in 1 line: line 1"),
        (contrary_label, "gives an image another class than before in 1 line: line 3"),
        (no_table, r"val\.txt is no table"),
        (other_classes, "different classes: bee only in .*; wasp only in"),
        (empty_class, "classes without images: cat"),
        (bad_images, r"2 of 6 images .*0\.JPEG .*2\.JPEG"),
        (no_test_split, "neither a folder val nor a folder test"),
        (lost_validation, "val: no folder, or a link that points nowhere"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_named_with_a_hint(
    folder: Path, load: Load, damage: Callable[[Path], None], problem: str
) -> None:
    damage(folder)
    with pytest.raises(KdctlError, match=problem) as caught:
        load()
    assert caught.value.hint.endswith(".")


def test_a_folder_that_is_missing_is_told_with_what_belongs_into_it(tmp_path: Path) -> None:
    with pytest.raises(KdctlError, match="no folder") as caught:
        StreamedFolder.load(StreamedFolder.Config(path="imagenet"), tmp_path)
    assert "and val or test (class folders, or images with a file of labels)" in caught.value.hint


def test_good_files_are_not_checked_again_after_bad_ones_are_mended(
    folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (folder / "train" / "ant" / "0.JPEG").read_bytes()
    bad_images(folder)
    with pytest.raises(KdctlError):
        load()
    (folder / "train" / "ant" / "0.JPEG").write_bytes(good)
    (folder / "train" / "bee" / "2.JPEG").unlink()
    read: list[str] = []
    monkeypatch.setattr(image_manifest, "check_image", lambda _, name: read.append(Path(name).name))
    load()
    assert [name for name in read if not name.startswith("v")] == ["0.JPEG"]


def test_links_to_images_are_images(folder: Path, load: Load) -> None:
    expected = len(load().train)
    (folder / "train" / "ant" / "link.jpg").symlink_to(folder / "train" / "ant" / "0.JPEG")
    assert len(load().train) == expected + 1
