"""Tar shards in WebDataset's layout: pairs of an image and its class, thousands in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import Dataset, ImageData, datasets
from kdctl.readers.folder_entries import data_folder
from kdctl.readers.shard_classes import class_names_of, ranks_of
from kdctl.readers.streamed_folders import StreamedOptions, data_of
from kdctl.readers.tar_shards import Shards, find_shards
from kdctl.recipe.component import location


@datasets.register("webdataset", label="Tar shards", aliases=("tar-shards",))
class WebDataset(Dataset):
    """Your own images in tar shards, `train-000000.tar` and so on, decoded while runs train."""

    @dataclass(frozen=True, kw_only=True)
    class Config(StreamedOptions):
        """Options of tar shards."""

        path: str = location()
        """The folder with the shards of `train`, and `val` or `test`: absolute, or below the data root
        (--data), not where one stands."""

    published_fingerprint: ClassVar[str | None] = None

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """List the shards, then hash and check what is in them: once, for the result is kept.

        With both `val` and `test`, `val` is the validation split; else what is there is the test split.

        Raises:
            KdctlError: no shards, shards that are damaged, samples without a class, or of unknown ones.
        """
        folder = data_folder(options.path, root, layout="train-000000.tar and test-000000.tar")
        found = {split: find_shards(folder, split) for split in ("train", "val", "test")}
        splits = [split for split, paths in found.items() if paths]
        if not found["train"] or len(splits) < 2:
            missing = "train" if not found["train"] else "val or test"
            raise KdctlError(
                f"{folder} has no shards of {missing}.",
                f"put them there as {missing.partition(' ')[0]}-000000.tar, or into a folder of that name.",
            )
        shards = {split: Shards(found[split]) for split in splits}
        names = class_names_of(folder, shards["train"].labels())
        ranks = ranks_of({label for split in splits for label in shards[split].labels()}, names)
        listings = {split: shards[split].listing(ranks) for split in splits}
        return data_of(
            listings["train"],
            listings[splits[-1]],
            names,
            options,
            val=listings["val"] if len(splits) == 3 else None,
        )
