"""Noise in the form of CIFAR-100, so that speed can be measured where the data are not.

A plug-in: kdctl bench --plugin benchmarks/synthetic.py --dataset noise ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kdctl.protocols.dataset import Dataset, DatasetOptions, ImageData, Split, datasets

NUM_CLASSES = 100


@datasets.register("noise", label="Noise")
class Noise(Dataset):
    """Random images of 32x32 pixels with random labels: 5,000 for training, 1,000 for the test."""

    Config = DatasetOptions
    published_fingerprint: ClassVar[str | None] = None

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """Draw the images; always the same."""
        rng = np.random.default_rng(0)
        return ImageData(
            train=_split(rng, 5_000),
            test=_split(rng, 1_000),
            class_names=tuple(str(number) for number in range(NUM_CLASSES)),
            mean=(0.5071, 0.4867, 0.4408),
            std=(0.2675, 0.2565, 0.2761),
        )


def _split(rng: np.random.Generator, count: int) -> Split:
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Split(images=images, labels=np.sort(np.arange(count) % NUM_CLASSES))
