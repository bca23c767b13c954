"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

60,000 colour photographs of 32x32 pixels in 10 classes; per class 5,000 for training and 1,000 for
the test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from kdctl.protocols.dataset import BalancedForm, Dataset, DatasetOptions, ImageData, datasets
from kdctl.readers.archive import Archive
from kdctl.readers.cifar import CifarFacts, CifarOptions, load_at_size, load_test_at_size
from kdctl.readers.cifar_pickles import PickledFile, PickleLayout

FACTS = CifarFacts(
    name="cifar10",
    class_names=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),  # noqa: SIM905
    train_per_class=5000,
    test_per_class=1000,
    layout=PickleLayout(
        folder="cifar-10-batches-py",
        train=(
            PickledFile(name="data_batch_1", md5="c99cafc152244af753f735de768cd75f"),
            PickledFile(name="data_batch_2", md5="d4bba439e000b95fd0a9bffe97cbabec"),
            PickledFile(name="data_batch_3", md5="54ebc095f3ab1f0389bbae665268c751"),
            PickledFile(name="data_batch_4", md5="634d18415352ddfa80567beed471001a"),
            PickledFile(name="data_batch_5", md5="482c414d41f54cd18b22e5b47cb7c3cb"),
        ),
        test=(PickledFile(name="test_batch", md5="40351d587109b95175f43aff81a1287e"),),
        meta=PickledFile(name="batches.meta", md5="5ff9c542aee3614f3951f8cda6e48888"),
        label_key="labels",
        names_key="label_names",
    ),
    archive=Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
    ),
    # Of the training pixels: the constants that public CIFAR-10 code shares.
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    fingerprint=None,
)
"""The fingerprint is open: nobody has computed it from the original files yet."""


@datasets.register("cifar10", label="CIFAR-10")
class Cifar10(Dataset):
    """CIFAR-10: 10 classes of 32x32 photographs, 50,000 for training and 10,000 for the test."""

    Config: ClassVar[type[DatasetOptions]] = CifarOptions
    published_fingerprint: ClassVar[str | None] = FACTS.fingerprint
    published_form: ClassVar[BalancedForm | None] = FACTS.form

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """Read the official files or class folders below `root`, else download them.

        Raises:
            KdctlError: the data are nowhere, or files are missing or damaged.
        """
        return load_at_size(FACTS, root, options)

    @staticmethod
    def load_test(options: Any, root: Path) -> ImageData:
        """Read what an evaluation needs: of the official files those of the test set alone.

        Raises:
            KdctlError: as `load`.
        """
        return load_test_at_size(FACTS, root, options)
