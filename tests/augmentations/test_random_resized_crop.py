import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from kdctl.augmentations.random_resized_crop import RandomResizedCrop, RandomResizedCropConfig
from kdctl.protocols.dataset import DatasetOptions


def pictures(height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the same random pixels [3, H, W] twice: as three planes, and with channels side by side."""
    planes = torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return planes, planes.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def augmentation(**options: object) -> RandomResizedCrop:
    config = RandomResizedCropConfig(**options)  # type: ignore[arg-type]
    return RandomResizedCrop(config, DatasetOptions())


@pytest.mark.parametrize("size", [48, 224])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_has_the_pixels_that_torchvision_gives(interpolation: str, size: int) -> None:
    crop = augmentation(interpolation=interpolation, flip=0.0)
    for seed, (height, width) in enumerate([(33, 50), (300, 221), (64, 64)]):
        planes, interleaved = pictures(height, width, seed)
        torch.manual_seed(seed)
        top, left, along, across = crop._box(height, width)  # pyright: ignore[reportAttributeAccessIssue]
        mode = InterpolationMode(interpolation)
        expected = vision.resized_crop_image(
            planes, top, left, along, across, [size, size], interpolation=mode, antialias=True
        )
        for image in (planes, interleaved):
            torch.manual_seed(seed)
            assert torch.equal(crop(image, size), expected)


def test_colours_change_alike_however_an_image_lies_in_memory() -> None:
    crop = augmentation(jitter=0.4, hue=0.1, randaugment=2, erase=0.5)
    for seed in range(8):
        made: list[Tensor] = []
        for image in pictures(40, 60, seed):
            torch.manual_seed(seed)
            made.append(crop(image, 32))
        assert torch.equal(*made)
