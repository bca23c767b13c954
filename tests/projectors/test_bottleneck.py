from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdctl.assembly.assemble import count_parameters, make_projector, model_facts
from kdctl.engine.device import shapes_only
from kdctl.methods.simkd import SimKd, SimKdConfig
from kdctl.projectors.bottleneck import BottleneckConfig, BottleneckProjector
from kdctl.protocols.backbone import models
from kdctl.protocols.distiller import Setup
from kdctl.recipe.component import Spec


@dataclass(frozen=True)
class Row:
    """One pair of the SimKD paper (arXiv:2203.14001, Table S.10), whose WRNs are post-activation."""

    student: str
    teacher: str
    parameters: tuple[int, int, int, int]
    """Of the projector, for r = 1, 2, 4, 8."""
    pruned: float
    """Percent, for r = 2, the student counted whole."""


ROWS = (
    Row("wrn_40_1_post", "wrn_40_2_post", (172_800, 49_664, 15_744, 5_696), 72.25),
    Row("resnet8x4", "resnet32x4", (722_432, 214_016, 70_400, 26_240), 80.53),
    Row("resnet110", "resnet110x2", (172_800, 49_664, 15_744, 5_696), 74.06),
    Row("resnet116", "resnet110x2", (172_800, 49_664, 15_744, 5_696), 72.66),
    Row("vgg8", "resnet32x4", (787_968, 246_784, 86_784, 34_432), 43.69),
    Row("resnet8x4", "wrn_40_2_post", (197_376, 61_952, 21_888, 8_768), 43.13),
    Row("shufflenetv2", "resnet32x4", (775_680, 240_640, 83_712, 32_896), 79.56),
    Row("shufflenetv1", "resnet32x4", (902_656, 304_128, 115_456, 48_768), 84.09),
    Row("wrn_16_2_post", "resnet32x4", (689_664, 197_632, 62_208, 22_144), 87.70),
    Row("shufflenetv2", "resnet110x2", (224_000, 75_264, 28_544, 12_096), 80.59),
    Row("mobilenetv2", "wrn_40_2_post", (185_088, 55_808, 18_816, 7_232), 66.60),
    Row("mobilenetv2x2", "resnet32x4", (738_816, 222_208, 74_496, 28_288), 66.74),
    Row("wrn_40_2_post", "resnet32x4", (689_664, 197_632, 62_208, 22_144), 66.83),
    Row("shufflenetv2x1_5", "resnet32x4", (837_120, 271_360, 99_072, 40_576), 62.67),
)
REDUCTIONS = (1, 2, 4, 8)


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: f"{row.student}<-{row.teacher}")
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


@pytest.fixture(scope="module")
def simkd(row: Row) -> SimKd:
    """Build the method for a pair, for 100 classes of 32x32 images, without memory for weights."""
    projector = Spec(kind="projector", name="bottleneck", options=BottleneckConfig())
    with shapes_only():
        setup = Setup(
            student=models.get(row.student).item(100, 32),
            teachers=(models.get(row.teacher).item(100, 32),),
            make_projector=make_projector,
            num_classes=100,
            num_samples=50_000,
            rng=torch.Generator("cpu"),
        )
        return SimKd(SimKdConfig(projector=projector), setup)


def test_parameters_of_the_papers_pairs_are_counted_exactly(row: Row, simkd: SimKd) -> None:
    student, teacher = simkd.student, simkd.setup.teacher
    source, target = student.tap_shapes[student.final_tap], teacher.tap_shapes[teacher.final_tap]
    configs = [BottleneckConfig(reduction=reduction) for reduction in REDUCTIONS]
    counts = [count_parameters(BottleneckProjector(config, source, target)) for config in configs]
    assert tuple(counts) == row.parameters


def test_pruning_ratios_are_those_of_the_paper(row: Row, simkd: SimKd) -> None:
    facts = model_facts(simkd, simkd.setup.teachers)
    assert facts.teacher_parameters is not None
    heads = count_parameters(simkd.setup.teacher.classifier) - count_parameters(simkd.student.classifier)
    whole = facts.student_parameters + facts.projector_parameters + heads
    assert facts.projector_parameters == row.parameters[1]
    assert round(100 * (1 - whole / facts.teacher_parameters), 2) == row.pruned
    # The paper counts a student's last convolution, though it is not used; we do not ship it.
    unused = count_parameters(simkd.student.links["head"]) if "head" in simkd.student.links else 0
    assert facts.shipped_parameters == whole - unused
    assert facts.pruning_percent == pytest.approx(
        row.pruned + 100 * unused / facts.teacher_parameters, abs=0.01
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("source", "target"), [(64, 128), (512, 256), (3, 10)])
def test_parameters_follow_the_formula(source: int, target: int, reduction: int) -> None:
    projector = BottleneckProjector(BottleneckConfig(reduction=reduction), (source, 4, 4), (target, 4, 4))
    inner = target // reduction
    expected = source * inner + 9 * inner**2 + inner * target + 4 * inner + 2 * target
    assert count_parameters(projector) == expected


def test_it_is_three_convolutions_each_normalised_and_rectified() -> None:
    torch.manual_seed(0)
    projector = BottleneckProjector(BottleneckConfig(reduction=2), (6, 4, 4), (8, 4, 4)).train()
    features = torch.randn(5, 6, 4, 4)
    expected = features.double()
    for conv, padding in zip(
        (module for module in projector.modules() if isinstance(module, nn.Conv2d)), (0, 1, 0), strict=True
    ):
        assert conv.bias is None
        expected = functional.conv2d(expected, conv.weight.double(), padding=padding)
        centred = expected - expected.mean(dim=(0, 2, 3), keepdim=True)
        deviation = (expected.var(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        expected = (centred / deviation).relu()
    torch.testing.assert_close(projector(features).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_bottleneck_keeps_at_least_one_channel() -> None:
    projector = BottleneckProjector(BottleneckConfig(reduction=64), (4, 2, 2), (8, 2, 2))
    assert projector(torch.randn(3, 4, 2, 2)).shape == (3, 8, 2, 2)
