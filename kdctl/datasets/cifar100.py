"""CIFAR-100 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

60,000 colour photographs of 32x32 pixels in 100 classes (the fine labels); per class 500 for
training and 100 for the test. Ten images occur in both splits, in the original too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from kdctl.protocols.dataset import BalancedForm, Dataset, DatasetOptions, ImageData, datasets
from kdctl.readers.archive import Archive
from kdctl.readers.cifar import CifarFacts, CifarOptions, load_at_size, load_test_at_size
from kdctl.readers.cifar_pickles import PickledFile, PickleLayout

CLASS_NAMES = tuple(
    """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
""".split()  # noqa: SIM905 - a hundred quoted lines would hide the rest
)

FACTS = CifarFacts(
    name="cifar100",
    class_names=CLASS_NAMES,
    train_per_class=500,
    test_per_class=100,
    layout=PickleLayout(
        folder="cifar-100-python",
        train=(PickledFile(name="train", md5="16019d7e3df5f24257cddd939b257f8d"),),
        test=(PickledFile(name="test", md5="f0ef6b0ae62326f3e7ffdfab6717acfc"),),
        meta=PickledFile(name="meta", md5="7973b15100ade9c7d40fb424638fde48"),
        label_key="fine_labels",
        names_key="fine_label_names",
    ),
    archive=Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
    # The constants of the public distillation code, within 0.0002 of the training pixels'.
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    fingerprint="02ada2715d74d485dbd2404da53afd197e0ffa6ed5fa12308ce3dac80153ddd8",
)


@datasets.register("cifar100", label="CIFAR-100")
class Cifar100(Dataset):
    """CIFAR-100: 100 classes of 32x32 photographs, 50,000 for training and 10,000 for the test."""

    Config: ClassVar[type[DatasetOptions]] = CifarOptions
    published_fingerprint: ClassVar[str | None] = FACTS.fingerprint
    published_form: ClassVar[BalancedForm | None] = FACTS.form

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """Read the official files or class folders below `root`, else download them.

        Raises:
            KdctlError: the data are nowhere, or files are missing, damaged or altered.
        """
        return load_at_size(FACTS, root, options)

    @staticmethod
    def load_test(options: Any, root: Path) -> ImageData:
        """Read what an evaluation needs: of the official files those of the test set alone.

        Raises:
            KdctlError: as `load`.
        """
        return load_test_at_size(FACTS, root, options)
