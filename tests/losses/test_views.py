from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdctl.losses.views import magnified_views, shifted_views

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("augmentation", ["crop", "crop-flip"])
def test_a_shifted_view_is_a_crop_of_the_padded_image(augmentation: str) -> None:
    views = shifted_views(IMAGES, augmentation, 2, rng())  # type: ignore[arg-type]
    padded = functional.pad(IMAGES, (2, 2, 2, 2))
    mirrored = 0
    for image, view in zip(padded, views, strict=True):
        crops = [image[:, top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
        found = [
            flip
            for flip in (False, True)
            if any(torch.allclose(view, crop.flip(2) if flip else crop, atol=1e-6) for crop in crops)
        ]
        assert len(found) == 1
        mirrored += found[0]
    assert 10 <= mirrored <= 30 if augmentation == "crop-flip" else mirrored == 0


def test_a_whole_square_is_the_image_itself() -> None:
    torch.testing.assert_close(magnified_views(IMAGES, "crop", 1.0, rng()), IMAGES)


def test_a_magnified_view_of_a_ramp_is_a_less_steep_ramp_within_it() -> None:
    ramp = torch.arange(8.0).expand(200, 3, 8, 8)
    views = magnified_views(ramp, "crop", 0.25, rng())
    slopes = views[:, 0, 0, 5] - views[:, 0, 0, 4]
    assert views.min() >= 0
    assert views.max() <= 7
    assert 0.49 < slopes.min() < 0.6
    assert 0.9 < slopes.max() <= 1.0
    torch.testing.assert_close(views[:, :, :1].expand_as(views), views)


def test_gradients_pass_through_views() -> None:
    images = IMAGES.clone().requires_grad_()
    views = magnified_views(shifted_views(images, "crop-flip", 2, rng()), "crop-flip", 0.5, rng())
    views.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_none_leaves_images_as_they_are() -> None:
    assert shifted_views(IMAGES, "none", 4, rng()) is IMAGES
    assert magnified_views(IMAGES, "none", 0.25, rng()) is IMAGES
