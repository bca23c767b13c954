from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdctl.assembly.data import _require_classes, _warn_of_shared_images
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import ImageData, Split


def split_of(*labels: int) -> Split:
    return Split(images=np.zeros((len(labels), 1, 1, 3), dtype=np.uint8), labels=np.array(labels, np.int64))


@pytest.mark.parametrize(
    ("split", "words"), [("train", "training"), ("test", "test"), ("val", "validation")], ids=str
)
def test_a_plugins_split_without_images_or_with_labels_of_no_class_is_refused(split: str, words: str) -> None:
    sound = ImageData(
        train=split_of(0, 1), test=split_of(0), class_names=("ant", "bee"), mean=(0.1,) * 3, std=(0.2,) * 3
    )
    _require_classes("mine", sound)
    with pytest.raises(KdctlError, match=f"has no {words} images"):
        _require_classes("mine", replace(sound, **{split: split_of()}))
    with pytest.raises(KdctlError, match=f"has {words} images whose labels are none of its 2 classes"):
        _require_classes("mine", replace(sound, **{split: split_of(0, 2)}))


def test_images_of_the_training_set_among_test_images_are_counted_in_right_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = np.arange(6, dtype=np.uint8).repeat(48).reshape(6, 4, 4, 3)
    labels = np.array([0, 1, 0, 1, 0, 1], dtype=np.int64)
    train, test, val = (
        Split(images=images[kept], labels=labels[kept]) for kept in ([0, 1, 2], [2, 3, 4], [0, 1, 5])
    )
    data = ImageData(
        train=train, test=test, val=val, class_names=("cat", "dog"), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    _warn_of_shared_images("pets", data)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "1 of the 3 test images of 'pets' also stands in its training set",
        "2 of the 3 validation images of 'pets' also stand in its training set",
    ]
