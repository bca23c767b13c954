"""Images cut to the input of a model."""

from __future__ import annotations

import pytest
import torch

from kdctl.protocols.dataset import CentreCrop
from kdctl.readers.framing import centre_crop


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (2, 70_001)])
def test_the_middle_of_a_line_is_cut_without_scaling_all_of_it(shape: tuple[int, int]) -> None:
    line = torch.full((3, *shape), 10, dtype=torch.uint8)
    long = shape.index(max(shape))
    middle = shape[long] // 2
    line.narrow(1 + long, middle - 2, 5).fill_(200)
    cut = centre_crop(line, CentreCrop(resize=256, size=224))
    assert cut.shape == (3, 224, 224)
    assert cut[:, 112, 112].tolist() == [200, 200, 200]  # all of it would be 20 GB


def test_one_pixel_fills_the_whole_input() -> None:
    pixel = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]
    cut = centre_crop(pixel, CentreCrop(resize=40, size=32))
    assert cut.unique().tolist() == [10, 20, 30]
    assert cut.shape == (3, 32, 32)
