"""A hundred photographs of ImageNet, one each of every tenth class, as a data set of 1,000 classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kdctl.protocols.dataset import Dataset, ImageData, datasets
from kdctl.readers.image_listing import list_labelled
from kdctl.readers.streamed_folders import StreamedOptions, data_of
from kdctl.recipe.component import location

NUM_CLASSES, STEP = 1000, 10


@datasets.register("imagenet_samples")
class ImageNetSamples(Dataset):
    """Files `<wnid>_<words>.JPEG` side by side; training and test set are the same."""

    @dataclass(frozen=True, kw_only=True)
    class Config(StreamedOptions):
        """Options of the samples."""

        path: str = location()

    published_fingerprint: ClassVar[str | None] = None

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """List them: in order of their names, every tenth class has one."""
        folder = root / options.path
        labels = {path.name: STEP * rank for rank, path in enumerate(sorted(folder.glob("*.JPEG")))}
        listing = list_labelled(folder, labels, folder)
        names = tuple(f"{label:03}" for label in range(NUM_CLASSES))
        return data_of(listing, listing, names, options)
