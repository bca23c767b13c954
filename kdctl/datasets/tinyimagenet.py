"""Tiny-ImageNet in its original layout (Stanford CS231N, after ImageNet; Deng et al., CVPR 2009).

200 classes of 500 training and 50 validation photographs of 64x64 pixels, some of them grey. Papers test on
the validation images, as the labels of the test images are not public.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Gt, Le

from kdctl.errors import KdctlError
from kdctl.files import at_home
from kdctl.protocols.dataset import Dataset, ImageData, datasets
from kdctl.readers.image_listing import class_folders, list_images, list_labelled
from kdctl.readers.streamed_folders import StreamedOptions, data_of, read_labels
from kdctl.recipe.component import Spec, component, location

FOLDERS = ("tiny-imagenet-200", "tiny-imagenet", "tinyimagenet")
"""Below the data root, where `path` is not given."""


@datasets.register("tinyimagenet", label="Tiny-ImageNet", aliases=("tiny-imagenet-200",))
class TinyImageNet(Dataset):
    """Tiny-ImageNet in its original layout: 200 classes of 64x64 photographs, streamed."""

    @dataclass(frozen=True, kw_only=True)
    class Config(StreamedOptions):
        """Options of Tiny-ImageNet."""

        path: str = location(default="")
        """The unpacked archive: absolute, or below the data root (--data), not where one stands; empty:
        `tiny-imagenet-200` and the like."""
        size: Annotated[int, Gt(0), Le(4096)] = 64
        """Height and width of a model's input in pixels."""
        resize: Annotated[int, Gt(0), Le(8192)] = 64
        """In an evaluation the shorter side is scaled to this, then the middle is cut."""
        mean: tuple[float, float, float] = (0.4802, 0.4481, 0.3975)
        """Per channel, of pixels scaled to [0, 1]: the constants of public distillation code."""
        std: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (
            0.2302,
            0.2265,
            0.2262,
        )
        """Per channel: what the input is divided by; those of public code, means over images."""
        augmentation: Spec = component("augmentation", "crop-flip", was_a_name=True)
        """Of training images: `kdctl list augmentations` shows which there are."""

    published_fingerprint: ClassVar[str | None] = None

    @staticmethod
    def load(options: Any, root: Path) -> ImageData:
        """List `train/<wnid>/images` and `val/images` with `val/val_annotations.txt`.

        Raises:
            KdctlError: the folder is missing or has another layout, or files cannot be used.
        """
        chosen = (options.path,) if options.path else FOLDERS
        places = [root / at_home(name, "data.path") for name in chosen]
        folder = next((place for place in places if (place / "train").is_dir()), None)
        if folder is None:
            raise KdctlError(
                f"Tiny-ImageNet is nowhere: looked for {', '.join(map(str, places))} with a folder train.",
                f"unpack tiny-imagenet-200.zip below {root}, or name its folder as data.path.",
            )
        names = class_folders(folder / "train")
        annotations = folder / "val" / "val_annotations.txt"
        if not annotations.is_file():
            raise KdctlError(
                f"there is no {annotations}: nothing says of which class each validation image is.",
                "unpack the original archive anew; class folders of images are read as 'streamedfolder'.",
            )
        train = list_images(folder / "train", names, inner="images")
        test = list_labelled(folder / "val", read_labels(annotations, names), annotations, inner="images")
        return data_of(train, test, names, options)
