from __future__ import annotations

import torch

from kdctl.losses.precision import full_precision


def test_products_inside_are_taken_in_fp32_also_under_autocast() -> None:
    left, right = torch.randn(4, 8), torch.randn(8, 3)
    exact = left @ right
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (left @ right).dtype == torch.bfloat16
        with full_precision(left):
            assert torch.equal(left @ right, exact)
        assert (left @ right).dtype == torch.bfloat16


def test_without_autocast_nothing_changes() -> None:
    with full_precision(torch.zeros(1)):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
