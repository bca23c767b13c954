from __future__ import annotations

import pytest

from kdctl.errors import KdctlError
from kdctl.losses.aligned_stages import Taps, aligned_pairs, check_taps, depth_shares
from kdctl.protocols.backbone import Backbone, models


def build(name: str) -> Backbone:
    return models.get(name).item(4, 32)


@pytest.mark.parametrize(
    ("taps", "count", "shares"),
    [
        ("end", 3, {2: 1.0}),
        ("biased", 3, {1: 1 / 3, 2: 2 / 3}),
        ("biased", 4, {2: 1 / 3, 3: 2 / 3}),
        ("biased", 1, {0: 1.0}),
        ("all", 4, {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25}),
        (((0.25, 1.0), (0.5, 2.0), (1.0, 5.0)), 4, {0: 1 / 8, 1: 2 / 8, 3: 5 / 8}),
        (((0.01, 1.0), (0.2, 1.0), (1.0, 2.0)), 3, {0: 0.5, 2: 0.5}),
    ],
)
def test_taps_lie_at_relative_depths_and_share_the_loss(
    taps: Taps, count: int, shares: dict[int, float]
) -> None:
    assert depth_shares(taps, count) == pytest.approx(shares)


def test_mobilenetv2_is_tapped_where_the_published_experiment_tapped_it() -> None:
    """Its third stage (96 channels, 4x4) meets the teacher's second, its last the teacher's last."""
    pairs = aligned_pairs(build("mobilenetv2x2"), build("resnet32x4"), taps="biased", until=1.0)
    assert [(pair.student, pair.teacher, pair.size) for pair in pairs] == [
        ("stage3", "stage2", (4, 4)),
        ("stage4", "stage3", (2, 2)),
    ]


def test_reuse_from_an_earlier_stage_keeps_the_deepest_student_stage_that_is_paired_with_it() -> None:
    student, teacher = build("mobilenetv2"), build("resnet8x4")
    (junction,) = aligned_pairs(student, teacher, taps="end", until="stage2")
    assert (junction.student, junction.teacher) == ("stage3", "stage2")
    earlier = aligned_pairs(student, teacher, taps="all", until="stage2")
    assert [pair.student for pair in earlier] == ["stage1", "stage2", "stage3"]
    assert aligned_pairs(student, teacher, taps="end", until=2 / 3) == (junction,)


def test_every_teacher_stage_can_be_reused_from_under_any_student() -> None:
    backbones = [build(name) for name in ("resnet3", "resnet5", "resnet8", "vgg8")]
    for teacher in backbones:
        for student in backbones:
            for stage in teacher.stage_taps:
                *_, junction = aligned_pairs(student, teacher, taps="all", until=stage)
                assert junction.teacher == stage


def test_an_unknown_stage_is_named_with_the_stages_there_are() -> None:
    with pytest.raises(KdctlError, match="no stage 'stag2'") as caught:
        aligned_pairs(build("resnet8"), build("resnet8"), taps="end", until="stag2")
    assert "did you mean 'stage2'? Stages: stage1, stage2, stage3." in caught.value.hint


@pytest.mark.parametrize(
    ("taps", "problem"),
    [
        ((), "end at depth 1.0"),
        (((0.5, 1.0),), "end at depth 1.0"),
        (((0.5, 1.0), (0.3, 1.0), (1.0, 1.0)), "should rise"),
        (((0.5, 1.0), (0.5, 1.0), (1.0, 1.0)), "should rise"),
        (((0.0, 1.0), (1.0, 1.0)), "from above 0"),
        (((0.5, 0.0), (1.0, 1.0)), "greater than 0"),
    ],
)
def test_depths_without_an_end_or_an_order_are_refused(taps: Taps, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_taps(taps)
