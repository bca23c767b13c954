"""What holds for every registered model, a plug-in's as well."""

from __future__ import annotations

import contextlib
import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.device import shapes_computed, shapes_only
from kdctl.engine.fold import fold_batch_norms, largest_error
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import PREACTIVATION, Backbone, models

LARGE = frozenset(
    {
        *("regnety_032", "regnety_080", "regnety_160", "resnet34_imagenet", "resnet101_imagenet"),
        *("resnet50", "resnet110", "resnet110_a", "resnet110x2", "resnet116", "wrn_28_4_post", "wrn_40_4"),
    }
)
"""Models that the code of a smaller one builds: to build and run them takes long, and is slow."""

SMALL_ONES = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in models.names()]
"""By default."""

NUM_CLASSES = 7
SIZES = (16, 32, 33, 64)
SEED = 1


@functools.cache
def smallest(name: str) -> int:
    """Return the height and width of the smallest images that a model takes here."""
    for size in SIZES:
        with contextlib.suppress(KdctlError), shapes_only():
            return models.get(name).item(NUM_CLASSES, size).input_size
    raise AssertionError(f"{name} takes no images of {SIZES}")


@pytest.fixture(scope="module", params=SMALL_ONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(SEED)
    return models.get(request.param).item(NUM_CLASSES, smallest(request.param)).eval()


@pytest.fixture
def images(backbone: Backbone) -> Tensor:
    size = backbone.input_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def outputs_of_links(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    """Return a copy of what each link gives, taken before the next one runs."""
    copies: dict[str, Tensor] = {}
    features = images
    for name, module in backbone.links.items():
        features = module(features)
        copies[name] = features.clone()
    return copies


@pytest.mark.parametrize("name", models.names())
def test_the_catalogue_can_describe_it(name: str) -> None:
    entry = models.get(name)
    assert entry.summary.endswith(".")
    assert models.get(entry.label) is entry
    assert all(models.get(alias) is entry for alias in entry.aliases)


@pytest.mark.parametrize("name", SMALL_ONES)
def test_declared_shapes_are_those_of_the_maps(name: str) -> None:
    for size in SIZES[SIZES.index(smallest(name)) :]:
        with shapes_computed(), torch.inference_mode():
            backbone = models.get(name).item(NUM_CLASSES, size).eval()
            outputs = backbone.observe(torch.empty(3, 3, size, size), list(backbone.tap_shapes))
        assert {tap: tuple(seen.shape[1:]) for tap, seen in outputs.taps.items()} == backbone.tap_shapes
        assert backbone.input_size == size


def test_it_gives_finite_logits_for_its_classes(backbone: Backbone, images: Tensor) -> None:
    with torch.inference_mode():
        logits = backbone(images)
    assert logits.shape == (2, NUM_CLASSES)
    assert logits.isfinite().all()
    assert backbone.num_classes == NUM_CLASSES


def test_taps_run_from_maps_to_a_vector(backbone: Backbone) -> None:
    order = list(backbone.tap_shapes)
    assert order[0] == "stem"
    assert order[-1] == "pooled"
    assert backbone.tap_shapes["pooled"] == (backbone.classifier.in_features,)
    assert all(len(backbone.tap_shapes[tap]) == 3 for tap in order[:-1])
    assert list(backbone.stage_taps) == [tap for tap in order if tap in backbone.stage_taps]
    assert backbone.final_tap == backbone.stage_taps[-1]


def test_a_tap_is_not_overwritten_by_what_follows(backbone: Backbone, images: Tensor) -> None:
    with torch.inference_mode():
        expected = outputs_of_links(backbone, images)
        outputs = backbone.observe(images, list(backbone.tap_shapes))
    for tap, features in outputs.taps.items():
        assert torch.equal(features, expected[tap]), tap


def test_encoder_then_tail_is_the_whole(backbone: Backbone, images: Tensor) -> None:
    with torch.inference_mode():
        logits = backbone(images)
        for tap in {backbone.stage_taps[0], backbone.final_tap, "pooled"}:
            assert torch.equal(backbone.tail(tap)(backbone.encoder(tap)(images)), logits), tap


def test_a_stage_with_an_activation_is_not_negative(backbone: Backbone, images: Tensor) -> None:
    rectified = [tap for tap in backbone.stage_taps if tap + PREACTIVATION in backbone.tap_shapes]
    with torch.inference_mode():
        taps = backbone.observe(images, [*rectified, *(tap + PREACTIVATION for tap in rectified)]).taps
    for tap in rectified:
        assert taps[tap].min() >= 0
        assert taps[tap + PREACTIVATION].min() < 0


def test_a_gradient_reaches_every_parameter(backbone: Backbone, images: Tensor) -> None:
    backbone.train()
    nn.functional.cross_entropy(backbone(images), torch.tensor([0, 1])).backward()
    missed = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    backbone.zero_grad()
    backbone.eval()
    assert not missed


def test_folding_its_batch_norms_changes_no_tap(backbone: Backbone, images: Tensor) -> None:
    model = copy.deepcopy(backbone)
    for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]:
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_var, 0.5, 2.0)  # fresh statistics would fold without a trace
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    folded = fold_batch_norms(model, images)
    assert folded is not None
    assert largest_error(folded, model, images) < 1e-5
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left < sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_the_global_seed_decides_the_weights(backbone: Backbone, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(SEED)
    again = models.get(request.node.callspec.params["backbone"]).item(NUM_CLASSES, backbone.input_size)
    pairs = zip(backbone.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
