"""Images of any size cut to the input of a model, as evaluations see them."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from kdctl.protocols.dataset import CentreCrop, Interpolation

_LONGEST = 256
"""Longer side of an image, by its shorter one: what is longer would fill the memory once it is scaled."""


def centre_crop(image: Tensor, crop: CentreCrop) -> Tensor:
    """Scale the shorter side of an image [3, H, W] and cut the middle: [3, size, size], uint8.

    An image that has the right size already stays as it is. Of a line, such as one of 100,000 pixels, no more
    than `_LONGEST` times its width is scaled: the crop is within that.
    """
    longest = _LONGEST * min(image.shape[-2:])
    if max(image.shape[-2:]) > longest:
        image = vision.center_crop_image(image, [min(side, longest) for side in image.shape[-2:]])
    height, width = image.shape[-2:]
    if min(height, width) != crop.resize:
        scale = crop.resize / min(height, width)
        size = [max(crop.resize, round(side * scale)) for side in (height, width)]
        mode = InterpolationMode(crop.interpolation)
        image = vision.resize_image(image, size, interpolation=mode, antialias=True)
    return vision.center_crop_image(image, [crop.size, crop.size])


def scaled_down(image: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    """Scale an image [3, H, W] until its shorter side has `side` pixels; a smaller one stays as it is."""
    height, width = image.shape[-2:]
    if min(height, width) <= side:
        return image
    scale = side / min(height, width)
    size = [max(side, round(length * scale)) for length in (height, width)]
    mode = InterpolationMode(interpolation)
    return vision.resize_image(image, size, interpolation=mode, antialias=True)
