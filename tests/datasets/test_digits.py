from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdctl.datasets.digits import TEST_PER_CLASS, Digits
from kdctl.protocols.augmentation import Views, build_augmentation
from kdctl.protocols.dataset import ImageData, datasets

CONFIG = datasets.get("digits").config
NOWHERE = Path("no data are needed")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return Digits.load(CONFIG(), NOWHERE)


def test_every_digit_gives_fifty_test_images(digits: ImageData) -> None:
    assert np.bincount(digits.test.labels).tolist() == [TEST_PER_CLASS] * 10
    assert len(digits.train) == 1797 - 500
    assert digits.class_names == tuple("0123456789")


def test_the_three_channels_are_equal(digits: ImageData) -> None:
    assert digits.train.images.shape == (1297, 16, 16, 3)
    for channel in (1, 2):
        np.testing.assert_array_equal(digits.train.images[..., channel], digits.train.images[..., 0])


def test_at_their_own_size_the_images_are_the_scans() -> None:
    data = Digits.load(CONFIG(size=8), NOWHERE)
    scans = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    ours = np.concatenate([data.train.images, data.test.images])[..., 0]
    assert sorted(image.tobytes() for image in ours) == sorted(scan.tobytes() for scan in scans)


def test_no_scan_is_in_both_splits() -> None:
    data = Digits.load(CONFIG(size=8), NOWHERE)
    assert not {i.tobytes() for i in data.train.images} & {i.tobytes() for i in data.test.images}


def test_the_split_is_the_same_at_every_size() -> None:
    small, large = (Digits.load(CONFIG(size=size), NOWHERE) for size in (8, 32))
    # The mean grey of a scan survives enlarging, so it tells which scans went where.
    means = [np.sort(data.test.images.mean(axis=(1, 2, 3))) for data in (small, large)]
    np.testing.assert_allclose(means[0], means[1], atol=3)


def test_normalised_training_pixels_have_mean_zero_and_deviation_one(digits: ImageData) -> None:
    normalised = (digits.train.images / 255 - digits.mean) / digits.std
    np.testing.assert_allclose(normalised.mean(axis=(0, 1, 2)), 0, atol=1e-9)
    np.testing.assert_allclose(normalised.std(axis=(0, 1, 2)), 1, atol=1e-9)


def test_digits_are_not_mirrored_unless_a_recipe_says_so() -> None:
    assert build_augmentation(CONFIG()).views == Views(padding=2, flips=False)
    assert CONFIG().padding == 2


def test_a_scikit_learn_that_keeps_its_table_elsewhere_is_asked_for_it(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdctl.datasets.digits._TABLE", "elsewhere.csv")
    again = Digits.load(CONFIG(), NOWHERE)
    np.testing.assert_array_equal(again.train.images, digits.train.images)
    np.testing.assert_array_equal(again.test.labels, digits.test.labels)


def test_scikit_learn_itself_is_not_imported() -> None:
    check = "import sys; from kdctl.datasets.digits import Digits as D; from pathlib import Path as P; "
    check += "D.load(D.Config(size=8), P()); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
