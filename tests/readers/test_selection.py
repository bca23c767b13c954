from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import BalancedForm, DatasetOptions, ImageData, Split
from kdctl.readers.selection import SelectedData, counts_of, expected_counts, select

COUNTS = (10, 20, 30)


def split_of(counts: tuple[int, ...]) -> Split:
    """Make images that carry their own row number, so that they can be told apart."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 1, 1, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    return Split(images=images, labels=labels)


@pytest.fixture
def data() -> ImageData:
    names = ("ant", "bee", "cat")
    train, test = split_of(COUNTS), split_of((2, 2, 2))
    return ImageData(train=train, test=test, class_names=names, mean=(0.1,) * 3, std=(0.2,) * 3)


def rows(split: Split | None) -> list[int]:
    assert split is not None
    return split.images[:, 0, 0, 0].tolist()


def val_rows(selected: SelectedData, label: int) -> list[int]:
    assert selected.val is not None
    return selected.val.images[selected.val.labels == label, 0, 0, 0].tolist()


def test_without_options_everything_is_kept(data: ImageData) -> None:
    selected = select(data, DatasetOptions())
    assert rows(selected.train) == list(range(60))
    assert rows(selected.test) == list(range(6))
    assert selected.val is None
    assert (selected.mean, selected.std) == (data.mean, data.std)


def test_the_first_classes_are_kept_in_both_splits(data: ImageData) -> None:
    selected = select(data, DatasetOptions(num_classes=2))
    assert rows(selected.train) == list(range(30))
    assert rows(selected.test) == [0, 1, 2, 3]
    assert selected.class_names == ("ant", "bee")
    assert selected.num_classes == 2


def test_more_classes_than_there_are_is_an_error(data: ImageData) -> None:
    with pytest.raises(KdctlError, match="num_classes = 4, but the data set has 3") as caught:
        select(data, DatasetOptions(num_classes=4))
    assert "3 or less" in caught.value.hint


@pytest.mark.parametrize("split", ["test", "val"])
def test_classes_without_an_image_to_evaluate_are_an_error(data: ImageData, split: str) -> None:
    of_cats = split_of((2, 2, 2)).taken(np.array([4, 5]))
    with pytest.raises(KdctlError, match=r"no (test|validation) images of these classes"):
        select(replace(data, **{split: of_cats}), DatasetOptions(num_classes=2))
    assert select(replace(data, **{split: of_cats}), DatasetOptions()).num_classes == 3


def test_the_first_samples_of_each_class_are_kept_for_training_only(data: ImageData) -> None:
    selected = select(data, DatasetOptions(samples_per_class=15))
    assert rows(selected.train) == [*range(10), *range(10, 25), *range(30, 45)]
    assert len(selected.test) == 6


def test_the_held_out_share_is_that_of_every_class(data: ImageData) -> None:
    selected = select(data, DatasetOptions(val_fraction=0.2))
    assert selected.val is not None
    assert np.bincount(selected.val.labels).tolist() == [2, 4, 6]
    assert sorted(rows(selected.train) + rows(selected.val)) == list(range(60))
    assert rows(selected.train) == sorted(rows(selected.train))
    assert rows(selected.val) == sorted(rows(selected.val))


def test_even_the_smallest_fraction_holds_out_one_image_of_each_class(data: ImageData) -> None:
    selected = select(data, DatasetOptions(val_fraction=0.001))
    assert selected.val is not None
    assert selected.val.labels.tolist() == [0, 1, 2]


def test_the_split_seed_and_nothing_else_draws_the_held_out_images(data: ImageData) -> None:
    options = DatasetOptions(val_fraction=0.3, split_seed=1)
    assert rows(select(data, options).val) == rows(select(data, options).val)
    other = DatasetOptions(val_fraction=0.3, split_seed=2)
    assert rows(select(data, options).val) != rows(select(data, other).val)


def test_the_held_out_images_of_a_class_do_not_depend_on_the_others(data: ImageData) -> None:
    whole = select(data, DatasetOptions(val_fraction=0.3))
    part = select(data, DatasetOptions(val_fraction=0.3, num_classes=2))
    for label in (0, 1):
        assert val_rows(whole, label) == val_rows(part, label)


def test_the_held_out_images_of_seed_zero_stay_the_same_for_ever(data: ImageData) -> None:
    assert rows(select(data, DatasetOptions(val_fraction=0.1)).val) == [3, 17, 20, 44, 53, 57]


def test_the_share_is_of_the_samples_that_are_kept(data: ImageData) -> None:
    selected = select(data, DatasetOptions(samples_per_class=5, val_fraction=0.2))
    assert np.bincount(selected.train.labels).tolist() == [4, 4, 4]
    assert rows(selected.val) == [row for row in rows(selected.val) if row % 10 < 5]


@pytest.mark.parametrize("options", [
    DatasetOptions(samples_per_class=1, val_fraction=0.1),
    DatasetOptions(val_fraction=0.96),
])  # fmt: skip
def test_holding_out_all_images_of_a_class_is_an_error(data: ImageData, options: DatasetOptions) -> None:
    with pytest.raises(KdctlError, match="class 'ant' and leaves none to train on"):
        select(data, options)


@pytest.mark.parametrize(
    "options",
    [
        DatasetOptions(),
        DatasetOptions(num_classes=2, samples_per_class=5),
        DatasetOptions(samples_per_class=100, val_fraction=0.25),
        DatasetOptions(val_fraction=0.01),
    ],
)
def test_what_is_kept_of_a_balanced_data_set_is_known_without_it(options: DatasetOptions) -> None:
    names = ("ant", "bee", "cat")
    train, test = split_of((10,) * 3), split_of((2,) * 3)
    balanced = ImageData(train=train, test=test, class_names=names, mean=(0.1,) * 3, std=(0.2,) * 3)
    form = BalancedForm(num_classes=3, input_size=1, train_per_class=10, test_per_class=2)
    assert expected_counts(form, options) == counts_of(select(balanced, options))


@pytest.mark.parametrize("options", [DatasetOptions(num_classes=4), DatasetOptions(val_fraction=0.99)])
def test_too_much_is_asked_of_a_form_as_of_its_data(options: DatasetOptions) -> None:
    form = BalancedForm(num_classes=3, input_size=1, train_per_class=10, test_per_class=2)
    with pytest.raises(KdctlError, match=r"\[data\]"):
        expected_counts(form, options)
