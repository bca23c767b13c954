"""Images in memory that models see larger than they are."""

from __future__ import annotations

import numpy as np
import torch

from kdctl.protocols.dataset import BalancedForm, ImageData, Split, StreamedSplit
from kdctl.readers.array_images import enlarged
from kdctl.readers.cifar import CifarOptions
from kdctl.readers.framing import centre_crop
from kdctl.readers.selection import expected_counts

MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)


def drawn(count: int) -> Split:
    random = np.random.default_rng(count)
    return Split(
        images=random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), labels=np.arange(count) % 3
    )


def test_images_labels_and_order_stay_and_the_input_grows() -> None:
    data = ImageData(
        train=drawn(6), test=drawn(3), class_names=("a", "b", "c"), mean=(0, 0, 0), std=(1, 1, 1)
    )
    large = enlarged(data, 64, MEAN, STD)
    assert isinstance(large.train, StreamedSplit)
    assert isinstance(data.train, Split)
    assert (large.input_size, large.mean, large.std) == (64, MEAN, STD)
    assert large.train.labels.tolist() == data.train.labels.tolist()
    for row in range(6):
        expected = torch.from_numpy(data.train.images[row]).permute(2, 0, 1)
        assert torch.equal(large.train.source.read(int(large.train.rows[row])), expected)
    assert large.train.evaluation.resize == 73  # 8/7 of 64
    assert centre_crop(large.train.source.read(0), large.train.evaluation).shape == (3, 64, 64)


def test_a_dry_run_knows_the_size_without_data() -> None:
    form = BalancedForm(num_classes=3, input_size=32, train_per_class=4, test_per_class=2)
    assert expected_counts(form, CifarOptions()).input_size == 32
    assert expected_counts(form, CifarOptions(size=224)).input_size == 224
