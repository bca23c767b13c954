import tomllib
from importlib.resources import files
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, RandAugment
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


def preset(name: str) -> dict[str, Any]:
    """Return what a preset says of the augmentation."""
    text = files("kdctl.recipe.presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["data"]["augmentation"]


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


def test_operations_of_randaugment_are_drawn_as_torchvision_draws_them() -> None:
    image, _ = pictures(40, 40, 0)
    crop = augmentation(min_area=1.0, min_aspect=1.0, max_aspect=1.0, flip=0.0, randaugment=3, magnitude=20)
    for seed in range(12):
        torch.manual_seed(seed)
        made = crop(image, 40)
        torch.manual_seed(seed)
        for shape in ((10, 4), ()):  # the box and the flip
            torch.rand(shape)
        assert torch.equal(made, RandAugment(3, 20, fill=[124.0, 116.0, 104.0])(image))


def test_half_of_the_operations_are_applied_where_each_is_as_likely_as_not() -> None:
    image, _ = pictures(24, 24, 1)
    options = {"min_area": 1.0, "min_aspect": 1.0, "max_aspect": 1.0, "flip": 0.0, "magnitude": 27}
    crop = augmentation(randaugment=1, operation_probability=0.5, **options)
    always = augmentation(randaugment=1, **options)
    torch.manual_seed(0)
    changed = [sum(not torch.equal(each(image, 24), image) for _ in range(400)) for each in (crop, always)]
    # Those that change nothing do so in both; 40 is four standard deviations of 400 draws.
    assert changed[0] == pytest.approx(changed[1] / 2, abs=40)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "Brightness", "Color", "Contrast", "Sharpness"])
def test_the_preset_of_deit_changes_images_as_much_as_timm_does(name: str) -> None:
    """`rand-m9` in timm is 9 of 10, whose operations reach 30 degrees, a shear of 0.3 and a factor of 1.9."""
    reach = {"Rotate": 30.0, "ShearX": 0.3}.get(name, 0.9)
    space: Any = RandAugment._AUGMENTATION_SPACE  # pyright: ignore[reportPrivateUsage]
    magnitudes, signed = space[name]
    assert signed
    assert float(magnitudes(31, 224, 224)[preset("deit")["magnitude"]]) == pytest.approx(9 / 10 * reach)
