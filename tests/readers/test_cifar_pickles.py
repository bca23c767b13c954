from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kdctl.errors import KdctlError
from kdctl.readers.cifar_pickles import PickledFile, read_pickled_data

if TYPE_CHECKING:
    from conftest import TinyCifar


def test_images_and_labels_come_back_from_the_official_layout(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    data = read_pickled_data(tiny_cifar.write_pickles(tmp_path), tiny_cifar.facts.layout)
    np.testing.assert_array_equal(data.train.images, tiny_cifar.train.images)
    np.testing.assert_array_equal(data.train.labels, tiny_cifar.train.labels)
    np.testing.assert_array_equal(data.test.images, tiny_cifar.test.images)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.labels.dtype == np.int64


def test_labels_become_ranks_of_the_names(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    folder = tiny_cifar.write_pickles(tmp_path)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["cat", "ant", "bee"]}))
    data = read_pickled_data(folder, tiny_cifar.facts.layout)
    np.testing.assert_array_equal(data.test.labels, np.array([2, 0, 1])[tiny_cifar.test.labels])


def python2_pickle(rows: bytes, num_rows: int, labels: list[int]) -> bytes:
    """Spell out, opcode by opcode, a file as Python 2 wrote it: byte strings, and NumPy's old module."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    blank = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    byte_type = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNN"
        + integer(-1) * 2
        + b"K\x00tb"
    )
    state = b"(K\x01(" + integer(num_rows) + integer(3072) + b"t" + byte_type + b"\x89" + text(rows) + b"tb"
    numbers = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + blank + state + text(b"fine_labels") + numbers + b"u."


def test_files_written_by_python_2_are_read(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    folder, test = tiny_cifar.write_pickles(tmp_path), tiny_cifar.test
    rows = test.images.transpose(0, 3, 1, 2).tobytes()
    content = python2_pickle(rows, len(test), test.labels.tolist())
    assert pickle.loads(content, encoding="latin1")["data"].shape == (
        len(test),
        3072,
    )  # NumPy agrees it is one
    (folder / "test").write_bytes(content)
    data = read_pickled_data(folder, tiny_cifar.facts.layout)
    np.testing.assert_array_equal(data.test.images, test.images)


class Attack:
    """Runs a command when it is unpickled the ordinary way."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


def test_no_code_in_a_pickle_runs(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    folder = tiny_cifar.write_pickles(tmp_path)
    (folder / "test").write_bytes(pickle.dumps({"data": Attack(tmp_path / "witness")}))
    with pytest.raises(KdctlError, match=r"test is not what .* it asks for \w+\.system"):
        read_pickled_data(folder, tiny_cifar.facts.layout)
    assert not (tmp_path / "witness").exists()


def batch(rows: np.ndarray, labels: list[int]) -> bytes:
    return pickle.dumps({"data": rows, "fine_labels": labels}, protocol=4)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "Ran out of input"),
        (b"no pickle", "not what the official archive holds"),
        (pickle.dumps([1, 2]), "no dictionary"),
        (pickle.dumps({"fine_labels": [0]}), "it has no 'data'"),
        (pickle.dumps({"data": [1], "fine_labels": [0]}), "not what the official archive holds"),
        (batch(np.zeros((1, 3072)), [0]), "'f8' instead of bytes"),
        (batch(np.zeros((2, 3072), np.uint8), [0]), "2, 3072"),
        (batch(np.zeros((1, 3072), np.uint8), [3]), "labels of 3 classes"),
        (batch(np.zeros((0, 3072), np.uint8), []), "not what the official archive holds"),
    ],
)
def test_a_malformed_file_is_named(
    tmp_path: Path, tiny_cifar: TinyCifar, content: bytes, complaint: str
) -> None:
    folder = tiny_cifar.write_pickles(tmp_path)
    (folder / "test").write_bytes(content)
    with pytest.raises(KdctlError, match=complaint) as caught:
        read_pickled_data(folder, tiny_cifar.facts.layout)
    assert str(folder / "test") in caught.value.problem


def test_a_file_cut_short_is_named(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    folder = tiny_cifar.write_pickles(tmp_path)
    (folder / "batch_2").write_bytes((folder / "batch_2").read_bytes()[:5000])
    with pytest.raises(KdctlError, match="batch_2"):
        read_pickled_data(folder, tiny_cifar.facts.layout)


def test_missing_files_are_named(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    folder = tiny_cifar.write_pickles(tmp_path)
    (folder / "batch_2").unlink()
    (folder / "meta").unlink()
    with pytest.raises(KdctlError, match="lacks batch_2, meta"):
        read_pickled_data(folder, tiny_cifar.facts.layout)


def test_a_file_with_another_checksum_is_refused(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    folder = tiny_cifar.write_pickles(tmp_path)
    layout = dataclasses.replace(tiny_cifar.facts.layout, test=(PickledFile(name="test", md5="0" * 32),))
    with pytest.raises(KdctlError, match=f"officially {'0' * 32}"):
        read_pickled_data(folder, layout)


def test_class_names_that_are_no_names_are_refused(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    folder = tiny_cifar.write_pickles(tmp_path)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [1, 2, 3]}))
    with pytest.raises(KdctlError, match="no list of names"):
        read_pickled_data(folder, tiny_cifar.facts.layout)


def test_a_batch_in_the_order_of_columns_is_read_alike(tmp_path: Path, tiny_cifar: TinyCifar) -> None:
    folder, test = tiny_cifar.write_pickles(tmp_path), tiny_cifar.test
    tree = pickle.loads((folder / "test").read_bytes())
    tree["data"] = np.asfortranarray(tree["data"])
    (folder / "test").write_bytes(pickle.dumps(tree, protocol=4))
    data = read_pickled_data(folder, tiny_cifar.facts.layout)
    np.testing.assert_array_equal(data.test.images, test.images)
