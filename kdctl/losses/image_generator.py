"""A network that makes images of noise."""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 128
"""Channels of the first maps, as in the generators of all data-free methods of the field."""

_SLOPE = 0.2
"""Of the leaky ReLUs below zero."""


def multiply_adds(noise_size: int, image_size: int) -> int:
    """Return those of one image's forward pass through an `ImageGenerator`."""
    quarter, half = _quarter_and_half(image_size)
    convolutions = half**2 * WIDTH * WIDTH + image_size**2 * (WIDTH * (WIDTH // 2) + (WIDTH // 2) * 3)
    return noise_size * WIDTH * quarter**2 + 9 * convolutions


class ImageGenerator(nn.Module):
    """Noise to images that are normalised like a network's input: their channels end in a batch norm.

    Linear -> BN -> maps of a quarter of the size -> (doubled, conv 3x3, BN, leaky ReLU) twice -> conv 3x3
    -> BN. This is the generator of arXiv:1904.01186 and arXiv:1905.09768; theirs only makes sizes that can
    be divided by 4, here any size is reached.
    """

    def __init__(self, noise_size: int, image_size: int, *, scales: bool = True) -> None:
        """Make images [3, image_size, image_size].

        Args:
            noise_size: numbers of noise for each image.
            image_size: height and width in pixels.
            scales: whether mean and deviation of each channel are learned; False: 0 and 1.
        """
        super().__init__()
        quarter, half = _quarter_and_half(image_size)
        self.layers = nn.Sequential(
            nn.Linear(noise_size, WIDTH * quarter**2),
            nn.Unflatten(1, (WIDTH, quarter, quarter)),
            nn.BatchNorm2d(WIDTH),
            *_enlarging(half, WIDTH, WIDTH),
            *_enlarging(image_size, WIDTH, WIDTH // 2),
            nn.Conv2d(WIDTH // 2, 3, 3, padding=1),
            nn.BatchNorm2d(3, affine=scales),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of noise [B, noise_size]."""
        return self.layers(noise)


def _quarter_and_half(image_size: int) -> tuple[int, int]:
    """Return the sides of the maps from which images are enlarged, rounded up."""
    return -(-image_size // 4), -(-image_size // 2)


def _enlarging(size: int, channels: int, width: int) -> tuple[nn.Module, ...]:
    return (
        nn.Upsample(size=(size, size)),
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(_SLOPE, inplace=True),
    )
