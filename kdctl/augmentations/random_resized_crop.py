"""Random parts of an image, scaled to the model's input: what ImageNet classifiers are trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from kdctl.protocols.augmentation import Augmentation, augmentations
from kdctl.protocols.dataset import DatasetOptions, Interpolation
from kdctl.recipe.component import option

_TRIALS = 10
"""Boxes that are tried before the middle of the image is taken."""


@dataclass(frozen=True, kw_only=True)
class RandomResizedCropConfig:
    """What is cut out, and what is done to it."""

    min_area: Annotated[float, Gt(0), Le(1)] = 0.08
    """Smallest part of the image's area that is cut out."""
    max_area: Annotated[float, Gt(0), Le(1)] = 1.0
    """Largest part."""
    min_aspect: Annotated[float, Ge(0.01), Le(100)] = 3 / 4
    """Smallest ratio of its width to its height."""
    max_aspect: Annotated[float, Ge(0.01), Le(100)] = 4 / 3
    """Largest ratio."""
    interpolation: Interpolation = "bilinear"
    """How it is scaled, always antialiased."""
    flip: Annotated[float, Ge(0), Le(1)] = 0.5
    """How likely it is mirrored left to right."""
    jitter: Annotated[float, Ge(0), Le(1)] = 0.0
    """Brightness, contrast and saturation change by a factor within 1 ± this, in random order."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.0
    """Hue turns by up to this share of the colour circle, one way or the other."""
    randaugment: Annotated[int, Ge(0), Le(100)] = 0
    """Operations of RandAugment (arXiv:1909.13719), as torchvision has them; 0: none, 2 in the paper."""
    magnitude: Annotated[int, Ge(0), Le(30)] = 9
    """Of them, out of 30; three times what timm's names say, who count to 10: `rand-m9` is 27."""
    operation_probability: Annotated[float, Gt(0), Le(1)] = option(1.0, since="0.3.0")
    """How likely each of them is applied; 0.5 in timm, and so in DeiT."""
    erase: Annotated[float, Ge(0), Le(1)] = 0.0
    """How likely a box of 2 % to a third of the image is overwritten with noise (arXiv:1708.04896)."""

    def __post_init__(self) -> None:
        """Refuse ranges that are turned round."""
        if self.min_area > self.max_area or self.min_aspect > self.max_aspect:
            raise ValueError("min_area and min_aspect must not be above max_area and max_aspect")


@augmentations.register("random-resized-crop", label="RandomResizedCrop")
class RandomResizedCrop(Augmentation):
    """Random part of an image, scaled to the input's size and mirrored; more on demand.

    Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv:1409.4842, section 6, with the numbers
    that torchvision has. On demand, in this order: colour jitter, RandAugment, erasing. DeiT's RandAugment,
    timm's `rand-m9-mstd0.5-inc1`, is `randaugment = 2`, `magnitude = 27`, `operation_probability = 0.5`,
    but for five things: it draws the magnitude for each operation anew (deviation 1.5 of 30), posterises to
    one bit where torchvision leaves four, inverts and solarises by addition as well, has no operation
    that does nothing, and interpolates what it turns, shears and moves, where torchvision takes the nearest
    pixel. timm erases after normalising, with Gaussian noise; ours writes uniform noise over
    bytes.
    """

    Config: ClassVar[type] = RandomResizedCropConfig
    config: RandomResizedCropConfig

    def __init__(self, config: Any, data: DatasetOptions) -> None:
        """Prepare the operations of torchvision that are asked for."""
        super().__init__(config, data)
        # torchvision takes two seconds to import, which a run that does not augment with it need not spend.
        from torchvision.transforms import v2  # noqa: PLC0415
        from torchvision.transforms.v2 import functional  # noqa: PLC0415

        self._functional = functional
        self._mode = v2.InterpolationMode(config.interpolation)
        self._colour: list[Any] = []
        if config.jitter or config.hue:
            self._colour.append(v2.ColorJitter(*[config.jitter] * 3, hue=config.hue))
        operation = v2.RandAugment(1, config.magnitude, fill=[124.0, 116.0, 104.0])
        self._operations: list[Any] = [operation] * config.randaugment

    def __call__(self, image: Tensor, size: int) -> Tensor:
        """Return a changed part of the image, [3, size, size]."""
        config = self.config
        top, left, height, width = self._box(*image.shape[-2:])
        # Torch scales bytes twice as fast where the channels of a pixel lie side by side.
        part = (
            image[:, top : top + height, left : left + width].permute(1, 2, 0).contiguous().permute(2, 0, 1)
        )
        image = self._functional.resize_image(part, [size, size], interpolation=self._mode, antialias=True)
        if torch.rand(()) < config.flip:
            image = image.flip(2)
        if self._colour or self._operations:  # means of an image round by its order in memory
            image = image.contiguous()
        for change in self._colour:
            image = change(image)
        for operation in self._operations:
            # Nothing is drawn where each is certain, as it was before there was a choice.
            if config.operation_probability == 1 or torch.rand(()) < config.operation_probability:
                image = operation(image)
        return self._erased(image) if config.erase and torch.rand(()) < config.erase else image

    def _box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Draw top, left, height and width: the area is uniform, and so is the ratio's logarithm."""
        config = self.config
        aspects = math.log(config.min_aspect), math.log(config.max_aspect)
        draws = torch.rand(_TRIALS, 4).tolist()
        for area, aspect, down, right in draws:
            target = height * width * (config.min_area + area * (config.max_area - config.min_area))
            ratio = math.exp(aspects[0] + aspect * (aspects[1] - aspects[0]))
            across, along = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < across <= width and 0 < along <= height:
                return int(down * (height - along + 1)), int(right * (width - across + 1)), along, across
        across = min(width, max(1, round(height * config.max_aspect)))
        along = min(height, max(1, round(width / config.min_aspect)))
        return (height - along) // 2, (width - across) // 2, along, across

    def _erased(self, image: Tensor) -> Tensor:
        size = image.shape[-1]
        area, aspect, down, right = torch.rand(4).tolist()
        target = size * size * (0.02 + area * (1 / 3 - 0.02))
        ratio = math.exp(math.log(0.3) * (1 - 2 * aspect))
        width, height = (min(size, max(1, round(math.sqrt(target * side)))) for side in (ratio, 1 / ratio))
        top, left = int(down * (size - height + 1)), int(right * (size - width + 1))
        image = image.clone()
        image[:, top : top + height, left : left + width] = torch.randint(
            0, 256, (3, height, width), dtype=torch.uint8
        )
        return image
