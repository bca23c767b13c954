"""Which maps of a wide ResNet the methods read whose protocol shows them before batch norm and ReLU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.at import AttentionTransfer, AttentionTransferConfig
from kdctl.methods.fitnet import FitNet, FitNetConfig
from kdctl.methods.fsp import FlowOfSolutionProcedure, FspConfig
from kdctl.methods.ft import FactorTransfer, FactorTransferConfig
from kdctl.methods.nst import NeuronSelectivityConfig, NeuronSelectivityTransfer
from kdctl.methods.reviewkd import ReviewKd, ReviewKdConfig
from kdctl.methods.sp import SimilarityPreserving, SimilarityPreservingConfig
from kdctl.methods.vid import VariationalInformationConfig, VariationalInformationDistillation
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Distiller, Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2])
LINEAR = Spec(kind="projector", name="linear", options=NoOptions())
METHODS: dict[str, tuple[type[Distiller], type, dict[str, Any]]] = {
    "at": (AttentionTransfer, AttentionTransferConfig, {}),
    "nst": (NeuronSelectivityTransfer, NeuronSelectivityConfig, {}),
    "sp": (SimilarityPreserving, SimilarityPreservingConfig, {}),
    "vid": (VariationalInformationDistillation, VariationalInformationConfig, {"projector": LINEAR}),
    "fitnet": (FitNet, FitNetConfig, {"projector": LINEAR, "stage": 2}),
    "ft": (FactorTransfer, FactorTransferConfig, {}),
    "reviewkd": (ReviewKd, ReviewKdConfig, {}),
}
READ = {
    "at": (("stage1", "stage2", "stage3"), ("stage1", "stage2", "stage3")),
    "nst": (("stage1", "stage2", "stage3"), ("stage1", "stage2", "stage3")),
    "sp": (("stage3",), ("stage3",)),
    "vid": (("stage1", "stage2", "stage3"), ("stage1", "stage2", "stage3")),
    "fitnet": (("stage2",), ("stage2",)),
    "ft": (("stage3",), ("stage3",)),
}
"""Stages of student and teacher."""

MakeMethod = Callable[..., Distiller]


@pytest.fixture
def make_method(make_setup: Callable[..., Setup]) -> MakeMethod:
    def build(name: str, student: str, teacher: str, **options: Any) -> Distiller:
        kind, config, needed = METHODS[name]
        return kind(config(**needed, **options), make_setup(student, teacher))

    return build


def raw(taps: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{tap}_raw" for tap in taps)


@pytest.mark.parametrize("name", READ)
def test_on_wide_resnets_the_raw_maps_are_read_if_asked_for(make_method: MakeMethod, name: str) -> None:
    own, other = READ[name]
    method = make_method(name, "wrn_16_2", "wrn_40_1", maps="raw")
    assert (method.student_taps, method.teacher_taps) == (raw(own), (raw(other),))
    method = make_method(name, "wrn_16_2", "wrn_40_1")
    assert (method.student_taps, method.teacher_taps) == (own, (other,))
    method = make_method(name, "wrn_16_2", "resnet8", maps="raw")
    assert (method.student_taps, method.teacher_taps) == (raw(own), (other,))


def test_reviewkd_reads_the_students_raw_maps_and_the_teachers_behind_batch_norm(
    make_method: MakeMethod,
) -> None:
    method = make_method("reviewkd", "wrn_16_2", "wrn_40_1", maps="raw")
    assert method.student_taps == ("pooled", "stage3_raw", "stage2_raw", "stage1_raw")
    assert method.teacher_taps == (("pooled", "stage3_pre", "stage2_pre", "stage1_pre"),)


def test_features_flow_between_raw_maps_from_the_stem_on(make_setup: Callable[..., Setup]) -> None:
    config = FspConfig(projector=LINEAR, maps="raw")
    stages = [(f"stage{k}_raw", f"stage{k}_raw") for k in (1, 2, 3)]
    assert list(FlowOfSolutionProcedure(config, make_setup("wrn_16_2", "wrn_40_2")).pairs) == [
        ("stem", "stem"), *stages
    ]  # fmt: skip
    assert FlowOfSolutionProcedure(config, make_setup("wrn_16_2", "resnet8")).pairs[1] == (
        "stage1_raw",
        "stage1",
    )


def test_a_paraphrase_of_raw_maps_is_classified_as_they_are(
    make_method: MakeMethod, make_step: Callable[..., Step]
) -> None:
    method = make_method("ft", "wrn_16_2", "wrn_40_1", maps="raw")
    method.phase = method.phases()[0]
    method.arrange()
    for part in ("encoder", "decoder"):
        method.get_submodule("paraphraser").add_module(part, nn.Identity())
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    outputs = method.setup.teacher.observe(images, method.teacher_taps[0])
    losses = method.losses(make_step(LABELS, Outputs(logits=None), outputs))
    torch.testing.assert_close(losses.logits, outputs.require_logits())


@pytest.mark.parametrize("name", METHODS)
def test_other_networks_are_read_as_ever(make_method: MakeMethod, name: str) -> None:
    raw_reading, reading = (make_method(name, "resnet8", "vgg8", maps=maps) for maps in ("raw", "activated"))
    assert raw_reading.student_taps == reading.student_taps
    assert raw_reading.teacher_taps == reading.teacher_taps


def plain_attention(backbone: Backbone, images: Tensor, stage: int) -> Tensor:
    """Restate the attention of a wide ResNet's stage, run block by block, before what follows it."""
    features = images
    for name, link in backbone.links.items():
        features = link(features)
        if name == f"stage{stage}_raw":
            break
    energy = features.double().square().sum(dim=1).flatten(1)
    return energy / energy.square().sum(dim=1, keepdim=True).sqrt()


def test_attention_is_that_of_the_sums_of_residuals(
    make_method: MakeMethod, make_step: Callable[..., Step]
) -> None:
    method = make_method("at", "wrn_16_2", "wrn_40_1", maps="raw").eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    student, teacher = method.student, method.setup.teacher
    step = make_step(
        LABELS,
        student.observe(images, method.student_taps),
        teacher.observe(images, method.teacher_taps[0]),
    )
    gaps = [plain_attention(student, images, k) - plain_attention(teacher, images, k) for k in (1, 2, 3)]
    expected = 1000 * sum(gap.square().mean() for gap in gaps)
    assert method.losses(step).transfer["at"].item() == pytest.approx(expected.item(), rel=1e-4)
