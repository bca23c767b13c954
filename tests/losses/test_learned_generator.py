from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdctl.losses.learned_generator import ImageGenerator, multiply_adds


@pytest.mark.parametrize("size", [16, 30, 32])
def test_its_multiply_adds_are_those_that_torch_counts(size: int) -> None:
    generator, noise = ImageGenerator(10, size).to("meta"), torch.empty(2, 10, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert generator(noise).shape == (2, 3, size, size)
    assert counter.get_total_flops() == 2 * 2 * multiply_adds(10, size)
