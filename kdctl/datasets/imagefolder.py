"""Your own images: one folder per class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Gt, Le

from kdctl.machine_errors import results_of
from kdctl.protocols.dataset import Dataset, DatasetOptions, ImageData, datasets
from kdctl.readers.class_folders import check_same_classes, decode_listing, list_class_folders, require_layout
from kdctl.readers.decoded_cache import user_cache
from kdctl.readers.folder_entries import data_folder
from kdctl.readers.pixels import channel_statistics
from kdctl.recipe.component import location


@datasets.register("imagefolder", label="Image folder", aliases=("folder",))
class ImageFolder(Dataset):
    """Your own images: `train/<class>/<image>` and `test/<class>/<image>`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetOptions):
        """Options of a folder of images."""

        path: str = location()
        """The folder that holds `train` and `test`: absolute, or below the data root (--data), not where one
        stands."""
        size: Annotated[int, Gt(0), Le(4096)] = 32
        """Height and width in pixels: images of another size or shape are scaled to it, bilinear."""

    published_fingerprint: ClassVar[str | None] = None

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """Decode all images below `options.path`; mean and deviation are those of the training pixels.

        Raises:
            KdctlError: folders that are missing or empty, classes that differ between the splits,
                images that cannot be read.
        """
        folder = data_folder(options.path, root)
        require_layout(folder)
        train, test = results_of(*(partial(list_class_folders, folder / name) for name in ("train", "test")))
        check_same_classes(train.folder, train.class_names, test.folder, test.class_names)
        decode = partial(decode_listing, size=options.size, cache=user_cache(), resize=True)
        train_split, test_split = results_of(partial(decode, train), partial(decode, test))
        mean, std = channel_statistics(train_split.images)
        return ImageData(
            train=train_split, test=test_split, class_names=train.class_names, mean=mean, std=std
        )
