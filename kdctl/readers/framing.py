"""Images of any size cut to the input of a model, as evaluations see them."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from kdctl.protocols.dataset import CentreCrop


def centre_crop(image: Tensor, crop: CentreCrop) -> Tensor:
    """Scale the shorter side of an image [3, H, W] and cut the middle: [3, size, size], uint8.

    An image that has the right size already stays as it is.
    """
    height, width = image.shape[-2:]
    if min(height, width) != crop.resize:
        scale = crop.resize / min(height, width)
        size = [max(crop.resize, round(side * scale)) for side in (height, width)]
        mode = InterpolationMode(crop.interpolation)
        image = vision.resize_image(image, size, interpolation=mode, antialias=True)
    return vision.center_crop_image(image, [crop.size, crop.size])
