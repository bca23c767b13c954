from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kdctl.assembly.data import _require_classes
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
