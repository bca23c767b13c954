"""A CIFAR of three classes and a few noisy images, in each of the ways the real one lies on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdctl.protocols.dataset import Split
from kdctl.readers.archive import Archive
from kdctl.readers.cifar import CifarFacts
from kdctl.readers.cifar_pickles import PickledFile, PickleLayout

NAMES = ("ant", "bee", "cat")


@dataclasses.dataclass(frozen=True)
class TinyCifar:
    """Images and labels of both splits, and the facts that describe them."""

    train: Split
    test: Split
    facts: CifarFacts

    def write_pickles(self, root: Path) -> Path:
        """Write the official layout, the training set in two files, the labels in a plain order."""
        folder = root / "tiny-python"
        folder.mkdir(parents=True)
        halves = np.array_split(np.arange(len(self.train)), 2)
        for number, rows in enumerate(halves, 1):
            write_batch(folder / f"batch_{number}", self.train.images[rows], self.train.labels[rows])
        write_batch(folder / "test", self.test.images, self.test.labels)
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(NAMES)}, protocol=4))
        return folder

    def write_class_folders(self, folder: Path) -> None:
        """Write PNGs, in an order that has nothing to do with that of the pickles."""
        for name, split in (("train", self.train), ("test", self.test)):
            for row in reversed(range(len(split))):
                place = folder / name / NAMES[split.labels[row]]
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(split.images[row]).save(place / f"{len(split) - row:03}.png")

    def pack(self, folder: Path) -> Archive:
        """Write the official archive as a local file."""
        layout = self.write_pickles(folder)
        packed = folder / "tiny.tar.gz"
        with tarfile.open(packed, "w:gz") as archive:
            archive.add(layout, arcname=layout.name)
        return Archive(url=packed.as_uri(), md5=hashlib.md5(packed.read_bytes()).hexdigest())


def write_batch(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write one pickle as the official files are: rows of red, then green, then blue."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    path.write_bytes(
        pickle.dumps({"data": np.ascontiguousarray(rows), "fine_labels": labels.tolist()}, protocol=4)
    )


@pytest.fixture
def tiny_cifar(tmp_path: Path) -> TinyCifar:
    """Draw the images; they are nowhere yet, and there is no network to fetch them from."""
    rng = np.random.default_rng(0)

    def noise(per_class: int) -> Split:
        labels = rng.permutation(np.repeat(np.arange(3), per_class))
        return Split(images=rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8), labels=labels)

    facts = CifarFacts(
        name="tiny",
        class_names=NAMES,
        train_per_class=4,
        test_per_class=2,
        layout=PickleLayout(
            folder="tiny-python",
            train=(PickledFile(name="batch_1", md5=None), PickledFile(name="batch_2", md5=None)),
            test=(PickledFile(name="test", md5=None),),
            meta=PickledFile(name="meta", md5=None),
            label_key="fine_labels",
            names_key="fine_label_names",
        ),
        archive=Archive(url=(tmp_path / "no-network").as_uri(), md5=""),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        fingerprint=None,
    )
    return TinyCifar(train=noise(4), test=noise(2), facts=facts)
