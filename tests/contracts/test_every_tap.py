"""Taps of every family of models can be observed together, and gradients flow through each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdctl.protocols.backbone import Backbone, models

FAMILIES = (
    "mobilenetv2",
    "resnet4",
    "resnet14",
    "resnet18",
    "resnet20_a",
    "shufflenetv1",
    "shufflenetv2",
    "vgg8",
    "wrn_16_2",
)


@pytest.fixture(params=FAMILIES, scope="module")
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    return models.get(request.param).item(4, 16).train()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_tap_is_the_same_seen_alone_or_with_all_others(backbone: Backbone, images: Tensor) -> None:
    together = backbone.observe(images, list(backbone.tap_shapes))
    for tap, features in together.taps.items():
        alone = backbone.observe(images, [tap], with_logits=False)
        assert alone.logits is None
        assert torch.equal(alone.taps[tap], features), tap


def test_gradients_through_all_taps_add_up_to_those_through_each(backbone: Backbone, images: Tensor) -> None:
    taps = list(backbone.tap_shapes)
    first = next(backbone.parameters())  # of the stem: every tap depends on it

    def gradient(chosen: list[str]) -> Tensor:
        seen = backbone.observe(images, chosen, with_logits=False).taps
        loss = sum(((features - 0.1) ** 2).mean() for features in seen.values())
        (result,) = torch.autograd.grad(loss, first)
        return result.double()

    each = torch.stack([gradient([tap]) for tap in taps])
    assert all(part.abs().sum() > 0 for part in each)
    torch.testing.assert_close(gradient(taps), each.sum(0), rtol=1e-3, atol=1e-3 * each.abs().max().item())


def test_a_tap_can_be_read_after_a_step_that_used_it(backbone: Backbone, images: Tensor) -> None:
    """Gradients need the maps as they were: an operation in place would be refused here."""
    outputs = backbone.observe(images, list(backbone.tap_shapes))
    before = {tap: features.detach().clone() for tap, features in outputs.taps.items()}
    loss = outputs.require_logits().square().mean()
    loss = loss + sum(features.square().mean() for features in outputs.taps.values())
    loss.backward()
    backbone.zero_grad()
    assert all(torch.equal(before[tap], features) for tap, features in outputs.taps.items())


def test_a_map_can_be_had_averaged_to_fewer_positions(backbone: Backbone, images: Tensor) -> None:
    backbone.eval()  # statistics of a batch norm would change from one pass to the next
    for tap in backbone.stage_taps:
        names = {size: backbone.tap_at(tap, size) for size in ((1, 1), (2, 1), (99, 99))}
        seen = backbone.observe(images, [tap, *names.values()]).taps
        assert names[99, 99] == tap
        for size, name in names.items():
            height, width = (min(pair) for pair in zip(size, seen[tap].shape[2:], strict=True))
            torch.testing.assert_close(
                seen[name], functional.adaptive_avg_pool2d(seen[tap], (height, width)), rtol=1e-5, atol=1e-6
            )


def test_averages_of_a_map_in_low_precision_are_not_rounded_to_it() -> None:
    backbone = models.get("resnet8").item(4, 16).eval().bfloat16()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    taps = backbone.observe(images, ["stage3", "stage3@2x2"], with_logits=False).taps
    assert taps["stage3"].dtype is torch.bfloat16
    assert torch.equal(taps["stage3@2x2"], functional.avg_pool2d(taps["stage3"].float(), 2))


def test_a_tap_that_is_not_there_is_refused(backbone: Backbone, images: Tensor) -> None:
    with pytest.raises(ValueError, match="no such taps: stage9; there are stem, "):
        backbone.observe(images, ["stem", "stage9"])
