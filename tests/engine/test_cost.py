from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.engine import cost
from kdctl.engine.cost import count_multiply_adds, measure_latencies, measure_latency, size_mb
from kdctl.engine.device import Compute, shapes_only
from kdctl.protocols.backbone import models
from kdctl.recipe.engine_options import EngineOptions

MEGAFLOPS = {
    "resnet8x4": 354.1,
    "resnet32x4": 2166.1,
    "resnet110x2": 2014.2,
    "resnet110": 506.3,
    "resnet116": 534.6,
    "wrn_40_2_post": 655.2,
    "wrn_40_1_post": 166.6,
    "wrn_16_2_post": 202.2,
    "mobilenetv2": 13.0,
    "mobilenetv2x2": 44.8,
    "shufflenetv1": 77.4,
    "shufflenetv2": 89.0,
    "shufflenetv2x1_5": 187.5,
    "vgg8": 192.4,
    "vgg13": 569.9,
}
"""Of one 32x32 image with 100 classes, a multiply-add counted as two: from the implementations of papers."""


@pytest.mark.parametrize("name", MEGAFLOPS)
def test_operations_are_those_of_the_published_networks(name: str) -> None:
    with shapes_only():
        backbone = models.get(name).item(100, 32)
    assert 2e-6 * count_multiply_adds(backbone, 32) == pytest.approx(MEGAFLOPS[name], abs=0.05)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_grouped_convolution_costs_only_the_products_within_its_groups(groups: int) -> None:
    conv = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups)
    )
    by_hand = 16 * 16 * 3 * 8 + 8 * 8 * 9 * (8 // groups) * 16
    assert count_multiply_adds(conv, 16) == by_hand


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_multiply_adds(model, 8)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_size_counts_every_tensor_in_the_bytes_of_its_type() -> None:
    model = nn.Sequential(nn.Linear(10, 5), nn.BatchNorm1d(5))
    assert size_mb(model) == pytest.approx((4 * (50 + 5 + 4 * 5) + 8) / 1e6)
    assert size_mb(model.half()) == pytest.approx((2 * (50 + 5 + 4 * 5) + 8) / 1e6)


def test_latency_is_that_of_one_image_of_the_batch() -> None:
    seen: list[tuple[torch.Size, bool, bool]] = []

    class Recorder(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((images.shape, self.training, torch.is_grad_enabled()))
            return images

    latency = measure_latency(
        Recorder().train(), 4, 16, Compute(device=torch.device("cpu"), options=EngineOptions())
    )
    assert set(seen) == {(torch.Size((16, 3, 4, 4)), False, False)}
    assert len(seen) >= 4  # a warm-up and what a median needs
    assert (latency.batch_size, latency.device, latency.num_threads) == (16, "cpu", torch.get_num_threads())
    assert latency.ms_per_image > 0


def test_a_network_that_takes_long_is_timed_by_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four batches of 256 photographs keep a CPU busy for half an hour, and take gigabytes."""
    now, seen = [0.0], list[int]()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])

    class Slow(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            now[0] += 0.3 * len(images)
            seen.append(len(images))
            return images

    compute = Compute(device=torch.device("cpu"), options=EngineOptions())
    one, many = measure_latencies(Slow(), 4, compute)
    assert (one.batch_size, many.batch_size) == (1, 32)
    assert many.ms_per_image == pytest.approx(300)
    assert seen == [1, 1, 1, 1, 32]
    monkeypatch.setattr(cost, "_LONGEST_SECONDS", 0.5)
    assert [each.batch_size for each in measure_latencies(Slow(), 4, compute)] == [1]
