"""What holds for every registered projector, a plug-in's as well."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.assembly.assemble import make_projector
from kdctl.protocols.projector import Projector, projectors
from kdctl.recipe.component import Spec

SHAPES = [
    ((8, 4, 4), (8, 4, 4)),
    ((6, 4, 4), (20, 4, 4)),
    ((20, 3, 5), (6, 3, 5)),
    ((5, 1, 1), (7, 1, 1)),
]

pytestmark = pytest.mark.parametrize("name", projectors.names())


def build(name: str, source: tuple[int, ...], target: tuple[int, ...], seed: int = 0) -> nn.Module:
    options = projectors.get(name).config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_projector(Spec(kind="projector", name=name, options=options), source, target)


def draw(source: tuple[int, ...]) -> Tensor:
    features = torch.randn(6, *source, generator=torch.Generator().manual_seed(0))
    return features.to(memory_format=torch.channels_last) if features.dim() == 4 else features


def test_the_catalogue_can_describe_it(name: str) -> None:
    entry = projectors.get(name)
    assert re.fullmatch(r"[^\n]{10,}\.", entry.summary)
    assert issubclass(entry.item, Projector)
    assert dataclasses.is_dataclass(entry.config)
    assert entry.config.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize(("source", "target"), SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_it_gives_the_targets_channels_at_the_sources_size(
    name: str, source: tuple[int, ...], target: tuple[int, ...], training: bool
) -> None:
    projected = build(name, source, target).train(training)(draw(source))
    assert projected.shape == (6, *target)
    assert projected.isfinite().all()


@pytest.mark.parametrize(("source", "target"), SHAPES, ids=str)
def test_a_gradient_reaches_features_and_all_parameters(
    name: str, source: tuple[int, ...], target: tuple[int, ...]
) -> None:
    projector, features = build(name, source, target), draw(source).requires_grad_()
    weights = torch.randn(6, *target, generator=torch.Generator().manual_seed(1))
    (projector(features) * weights).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    for label, parameter in projector.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.isfinite().all(), label


def test_the_seed_decides_its_weights(name: str) -> None:
    source, target = SHAPES[1]
    state = torch.get_rng_state()
    first, again, other = (build(name, source, target, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not first or any(not torch.equal(first[key], other[key]) for key in first)


def test_it_does_not_change_the_features_it_reads(name: str) -> None:
    source, target = SHAPES[1]
    features = draw(source)
    before = features.clone()
    build(name, source, target)(features)
    assert torch.equal(features, before)


def test_it_runs_under_autocast(name: str) -> None:
    source, target = SHAPES[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = build(name, source, target)(draw(source))
    projected.float().square().mean().backward()
    assert projected.isfinite().all()


def test_it_reads_nothing_back_from_the_device(
    no_host_reads: Callable[[], AbstractContextManager[Any]], name: str
) -> None:
    source, target = SHAPES[1]
    projector, features = build(name, source, target), draw(source)
    with no_host_reads():
        projector(features)
