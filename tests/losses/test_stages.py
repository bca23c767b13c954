from __future__ import annotations

import pytest
import torch
from torch import nn

from kdctl.losses.stages import (
    Reading,
    at_one_size,
    doubling_weights,
    last_map,
    map_of,
    pair_maps,
    pair_preactivations,
    paired_maps,
)
from kdctl.protocols.backbone import Backbone, Outputs, models
from kdctl.protocols.distiller import Batch, Step


def model(name: str) -> Backbone:
    torch.manual_seed(0)
    return models.get(name).item(5, 16)


def test_the_raw_map_of_a_wide_resnet_is_the_sum_of_residuals() -> None:
    """Before the batch norm and ReLU that the next stage begins with."""
    backbone = model("wrn_16_2").eval()
    taps = [map_of(backbone, stage, "raw") for stage in backbone.stage_taps]
    assert taps == ["stage1_raw", "stage2_raw", "stage3_raw"]
    seen = backbone.observe(torch.randn(2, 3, 16, 16), ["stage3_raw", "stage3"]).taps
    assert seen["stage3_raw"].min() < 0
    norm = backbone.links["stage3_pre"]
    torch.testing.assert_close(norm(seen["stage3_raw"]).relu(), seen["stage3"])


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "mobilenetv2", "wrn_40_1_post"])
@pytest.mark.parametrize("reading", ["activated", "raw"])
def test_other_networks_have_one_map_for_both_readings(name: str, reading: Reading) -> None:
    backbone = model(name)
    assert [map_of(backbone, stage, reading) for stage in backbone.stage_taps] == list(backbone.stage_taps)


def test_pairs_are_the_same_stages_in_both_readings() -> None:
    student, teacher = model("wrn_16_2"), model("vgg8")
    activated, raw = (pair_maps(student, teacher, reading) for reading in ("activated", "raw"))
    assert [own.removesuffix("_raw") for own, _ in raw] == [own for own, _ in activated]
    assert [other for _, other in raw] == [other for _, other in activated]
    reverse = pair_maps(teacher, student, "raw")
    assert [other for _, other in reverse] == [
        *("stage1_raw@8x8", "stage2_raw@4x4", "stage2_raw@2x2", "stage3_raw@2x2"),
    ]


def test_preactivations_are_paired_as_stages_are_and_linear_ends_stand_for_themselves() -> None:
    pairs = pair_preactivations(model("mobilenetv2"), model("resnet8"))
    own, other = zip(*pairs, strict=True)
    assert own == ("stage1", "stage2", "stage3", "stage4")
    assert other == ("stage1_pre", "stage2_pre", "stage2_pre", "stage3_pre")


def test_each_stage_weighs_twice_as_much_as_the_one_before_and_the_last_weighs_one() -> None:
    assert doubling_weights(4) == [0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(("name", "tap"), [("resnet8", "stage3"), ("mobilenetv2", "head")])
def test_the_last_map_is_the_one_whose_mean_the_classifier_reads(name: str, tap: str) -> None:
    backbone = model(name).eval()
    assert last_map(backbone) == tap
    seen = backbone.observe(torch.randn(2, 3, 16, 16), [tap, "pooled"]).taps
    torch.testing.assert_close(seen[tap].mean(dim=(2, 3)), seen["pooled"])


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [((8, 8), (4, 4), (4, 4)), ((4, 4), (8, 8), (4, 4)), ((8, 2), (4, 6), (4, 2)), ((5, 5), (5, 5), (5, 5))],
)
def test_each_map_is_pooled_to_the_smaller_height_and_width(
    first: tuple[int, int], second: tuple[int, int], shared: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    own, other = torch.randn(2, 3, *first), torch.randn(2, 7, *second)
    pool = nn.AdaptiveAvgPool2d(shared)
    for aligned, features in zip(at_one_size(own, other), (own, other), strict=True):
        torch.testing.assert_close(aligned, pool(features))


def test_maps_come_in_the_order_of_the_pairs() -> None:
    student = {"a": torch.ones(1, 2, 4, 4), "b": torch.full((1, 2, 2, 2), 2.0)}
    teacher = {"c": torch.full((1, 5, 2, 2), 3.0)}
    labels = torch.zeros(1, dtype=torch.int64)
    step = Step(
        batch=Batch(images=torch.zeros(1, 3, 8, 8), labels=labels, index=labels),
        student=Outputs(logits=None, taps=student),
        teachers=(Outputs(logits=None, taps=teacher),),
        progress=torch.tensor(0.0),
        learning_rate=torch.tensor(0.1),
    )
    maps = paired_maps(step, [("b", "c"), ("a", "c")])
    assert [(own.mean().item(), other.mean().item()) for own, other in maps] == [(2.0, 3.0), (1.0, 3.0)]
    assert all(own.shape[2:] == other.shape[2:] == (2, 2) for own, other in maps)
