from __future__ import annotations

import pytest
import torch

from kdctl.losses.stages import Reading, map_of, pair_maps
from kdctl.protocols.backbone import Backbone, models


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
