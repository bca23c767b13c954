"""Your own images, however many and large: decoded when a batch needs them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kdctl.protocols.dataset import Dataset, ImageData, datasets
from kdctl.readers.decoded_cache import user_cache
from kdctl.readers.folder_entries import data_folder
from kdctl.readers.sample_images import SAMPLE, sample_folder
from kdctl.readers.streamed_folders import StreamedOptions, load_streamed_folders
from kdctl.recipe.component import location

_LAYOUT = f"train{os.sep}<class>{os.sep}, and val or test (class folders, or images with a file of labels)"
"""What belongs into the folder."""


@datasets.register("streamedfolder", label="Streamed image folder")
class StreamedFolder(Dataset):
    """Your own images in class folders, decoded while runs train: any number, of any size."""

    @dataclass(frozen=True, kw_only=True)
    class Config(StreamedOptions):
        """Options of a folder of images that are decoded when they are needed."""

        path: str = location()
        """The folder that holds `train`, and `val` or `test`: absolute, or below the data root (--data), not
        where one stands. 'kdctl:sample' is a hundred drawn images in four classes, for `--smoke`."""

    published_fingerprint: ClassVar[str | None] = None

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """List, hash and check the files below `options.path`: once, for the result is kept.

        Raises:
            KdctlError: as `load_streamed_folders`.
        """
        if options.path == SAMPLE:
            return load_streamed_folders(sample_folder(user_cache()), options)
        return load_streamed_folders(data_folder(options.path, root, layout=_LAYOUT), options)
