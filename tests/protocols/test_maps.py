from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdctl.protocols.maps import name_at, pool_to, shared_size, tap_and_size

SIZES = [
    ((8, 8), (4, 4)),
    ((8, 8), (1, 1)),
    ((9, 6), (3, 2)),
    ((7, 7), (4, 4)),
    ((9, 9), (5, 5)),
    ((8, 7), (4, 3)),
    ((5, 5), (4, 2)),
    ((33, 33), (17, 9)),
    ((6, 6), (6, 3)),
]


def plain_pool(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Average over windows from floor(i * n / m) to ceil((i + 1) * n / m), one pixel at a time."""
    height, width = features.shape[-2:]
    pooled = torch.zeros(*features.shape[:2], *size, dtype=torch.float64)
    for row in range(size[0]):
        for column in range(size[1]):
            rows = slice(row * height // size[0], math.ceil((row + 1) * height / size[0]))
            columns = slice(column * width // size[1], math.ceil((column + 1) * width / size[1]))
            pooled[:, :, row, column] = features.double()[:, :, rows, columns].mean(dim=(2, 3))
    return pooled


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "target"), SIZES)
def test_pooling_is_adaptive_average_pooling_in_value_and_gradient(
    draw: torch.Generator,
    size: tuple[int, int],
    target: tuple[int, int],
    memory_format: torch.memory_format,
) -> None:
    features = torch.randn(2, 3, *size, generator=draw).to(memory_format=memory_format)
    weights = torch.randn(2, 3, *target, generator=draw)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    pooled = pool_to(ours, target)
    expected = functional.adaptive_avg_pool2d(theirs, target)
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(pooled.double(), plain_pool(features, target), rtol=1e-5, atol=1e-6)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("target", [(8, 8), (9, 9), (16, 8)])
def test_a_map_that_is_not_larger_stays_as_it_is(draw: torch.Generator, target: tuple[int, int]) -> None:
    features = torch.randn(2, 3, 8, 8, generator=draw)
    assert pool_to(features, target) is features


def test_each_direction_is_pooled_on_its_own(draw: torch.Generator) -> None:
    features = torch.randn(2, 3, 8, 4, generator=draw)
    torch.testing.assert_close(pool_to(features, (4, 8)), features.unflatten(2, (4, 2)).mean(3))


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_a_constant_map_stays_constant_in_half_precision(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    features = torch.full((2, 3, *size), 0.3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pool_to(features, target)
    assert torch.equal(pooled, torch.full((2, 3, *target), 0.3).bfloat16())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("size", "target"), SIZES)
def test_its_gradient_is_allowed_where_only_repeatable_ones_are(
    draw: torch.Generator, size: tuple[int, int], target: tuple[int, int]
) -> None:
    features = torch.randn(4, 8, *size, generator=draw).cuda().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        pool_to(features, target).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert features.grad is not None


def test_the_shared_size_is_the_smaller_in_each_direction() -> None:
    assert shared_size((64, 8, 4), (256, 4, 8)) == (4, 4)


def test_a_name_says_which_tap_it_stands_for_and_at_which_size() -> None:
    assert name_at("stage3_pre", (2, 10)) == "stage3_pre@2x10"
    assert tap_and_size("stage3_pre@2x10") == ("stage3_pre", (2, 10))
    assert tap_and_size("stage3_pre") == ("stage3_pre", None)
