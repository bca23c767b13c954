"""What the papers' networks look like besides their number of parameters: maps, strides, first weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kdctl.engine.device import shapes_only
from kdctl.protocols.backbone import PREACTIVATION, Backbone, models

MAPS = {
    # name: (channels of the stem, its stride), (channels of the stages), (their strides), pooled
    "resnet110": ((16, 1), (16, 32, 64), (1, 2, 2), 64),
    "resnet116": ((16, 1), (16, 32, 64), (1, 2, 2), 64),
    "resnet110x2": ((16, 1), (32, 64, 128), (1, 2, 2), 128),
    "resnet8x4": ((32, 1), (64, 128, 256), (1, 2, 2), 256),
    "resnet32x4": ((32, 1), (64, 128, 256), (1, 2, 2), 256),
    "resnet56_a": ((16, 1), (16, 32, 64), (1, 2, 2), 64),
    "wrn_40_2": ((16, 1), (32, 64, 128), (1, 2, 2), 128),
    "wrn_40_1": ((16, 1), (16, 32, 64), (1, 2, 2), 64),
    "wrn_40_2_post": ((16, 1), (32, 64, 128), (1, 2, 2), 128),
    "wrn_28_4_post": ((32, 1), (64, 128, 256), (1, 2, 2), 256),
    "resnet18": ((64, 1), (64, 128, 256, 512), (1, 2, 2, 2), 512),
    "resnet50": ((64, 1), (256, 512, 1024, 2048), (1, 2, 2, 2), 2048),
    "vgg8": ((64, 1), (128, 256, 512, 512), (2, 2, 2, 1), 512),
    "vgg13": ((64, 1), (128, 256, 512, 512), (2, 2, 2, 1), 512),
    "mobilenetv2": ((16, 2), (12, 16, 48, 160), (1, 2, 2, 2), 1280),
    "mobilenetv2x2": ((32, 2), (24, 32, 96, 320), (1, 2, 2, 2), 1280),
    "shufflenetv1": ((24, 1), (240, 480, 960), (2, 2, 2), 960),
    "shufflenetv2": ((24, 1), (116, 232, 464), (2, 2, 2), 1024),
    "shufflenetv2x1_5": ((24, 1), (176, 352, 704), (2, 2, 2), 1024),
}
HALVED_ONCE_MORE_FROM = 64
"""Pixels, for VGGs."""

FAMILIES = (
    "resnet14",
    "resnet20_a",
    "resnet18",
    "wrn_16_2",
    "vgg8",
    "mobilenetv2",
    "shufflenetv1",
    "shufflenetv2",
)


def on_meta(name: str, num_classes: int, size: int) -> Backbone:
    with shapes_only():
        return models.get(name).item(num_classes, size)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("size", [16, 24, 32, 48, 64])
def test_maps_have_the_published_channels_and_strides(name: str, num_classes: int, size: int) -> None:
    (stem, stem_stride), widths, strides, pooled = MAPS[name]
    if name.startswith("vgg") and size >= HALVED_ONCE_MORE_FROM:
        strides = (2, 2, 2, 2)
    backbone = on_meta(name, num_classes, size)
    extent = math.ceil(size / stem_stride)
    assert backbone.tap_shapes["stem"] == (stem, extent, extent)
    assert len(backbone.stage_taps) == len(widths)
    for tap, width, stride in zip(backbone.stage_taps, widths, strides, strict=True):
        extent = math.ceil(extent / stride)
        assert backbone.tap_shapes[tap] == (width, extent, extent)
    assert backbone.tap_shapes["pooled"] == (pooled,)
    assert backbone.classifier.weight.shape == (num_classes, pooled)


@pytest.mark.parametrize("name", MAPS)
def test_every_stage_that_is_rectified_can_be_seen_before_it(name: str) -> None:
    backbone = on_meta(name, 10, 32)
    before = [tap + PREACTIVATION in backbone.tap_shapes for tap in backbone.stage_taps]
    assert before == [not name.startswith("mobilenet")] * len(before)
    for tap in backbone.stage_taps:
        shape = backbone.tap_shapes[tap]
        assert backbone.tap_shapes.get(tap + PREACTIVATION, shape) == shape


@pytest.mark.parametrize("name", FAMILIES)
def test_first_weights_are_drawn_as_published(name: str) -> None:
    torch.manual_seed(0)
    backbone = models.get(name).item(100, 16)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert module.bias.count_nonzero() == 0
        elif isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            area = module.kernel_size[0] * module.kernel_size[1]
            # Torch's own: uniform within 1 / sqrt(fan-in), the variance of which is a third of its square.
            own = math.sqrt(1 / (3 * area * module.in_channels / module.groups))
            kaiming = math.sqrt(2 / (area * module.out_channels))
            expected = own if name.startswith("shufflenet") else kaiming
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
    head = backbone.classifier
    if name.startswith(("vgg", "mobilenet")):
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert head.bias.count_nonzero() == 0
    else:
        assert head.weight.abs().max().item() <= 1 / math.sqrt(head.in_features)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_classes", [10, 100])
def test_a_loss_moves_every_weight_from_the_stem_to_the_classifier(name: str, num_classes: int) -> None:
    torch.manual_seed(0)
    backbone = models.get(name).item(num_classes, 16).train()
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    nn.functional.cross_entropy(backbone(images), labels).backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all(), parameter_name
        if parameter.dim() > 1:
            assert parameter.grad.abs().max() > 0, parameter_name
