"""What holds for every augmentation, whatever file it comes from."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import Tensor

from kdctl.protocols.augmentation import Augmentation, augmentations
from kdctl.protocols.dataset import DatasetOptions
from kdctl.registry import Entry

SIZE = 24

pytestmark = pytest.mark.parametrize("entry", augmentations.entries(), ids=lambda entry: entry.name)


def draw_image(height: int = SIZE, width: int = SIZE) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=random)


def augment(entry: Entry[type[Augmentation]], image: Tensor, seed: int) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return entry.item(entry.config(), DatasetOptions())(image, SIZE)


def test_its_options_are_frozen_and_all_have_defaults(entry: Entry[type[Augmentation]]) -> None:
    assert dataclasses.is_dataclass(entry.config)
    assert entry.config.__dataclass_params__.frozen
    entry.config()


def test_it_says_what_it_is(entry: Entry[type[Augmentation]]) -> None:
    assert re.fullmatch(r"[^\n]{20,}\.", entry.summary)


def test_it_gives_bytes_of_the_size_asked_for(entry: Entry[type[Augmentation]]) -> None:
    for seed in range(20):
        image = augment(entry, draw_image(), seed)
        assert image.dtype == torch.uint8
        assert image.shape == (3, SIZE, SIZE)


def test_it_draws_from_torch_alone_and_leaves_the_image_alone(entry: Entry[type[Augmentation]]) -> None:
    image = draw_image()
    first = augment(entry, image, 5)
    assert torch.equal(image, draw_image())
    assert torch.equal(augment(entry, image, 5), first)


def test_one_with_views_gives_no_other_results(entry: Entry[type[Augmentation]]) -> None:
    views = entry.item(entry.config(), DatasetOptions(padding=1)).views
    if views is None:
        pytest.skip("the number of its results has no limit")
    seen: set[bytes] = set()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        augmentation = entry.item(entry.config(), DatasetOptions(padding=1))
        for _ in range(300):
            seen.add(augmentation(draw_image(), SIZE).numpy().tobytes())
    assert len(seen) == (2 * views.padding + 1) ** 2 * (1 + views.flips)
