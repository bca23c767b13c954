from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from kdctl.errors import KdctlError
from kdctl.methods.fitnet import FitNet, FitNetConfig
from kdctl.projectors.linear import LinearProjector
from kdctl.projectors.pointwise import PointwiseProjector
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2])
PAIRS = {
    "equal maps": ("resnet8", "resnet14"),
    "student's larger": ("resnet8", "vgg8"),
    "student's smaller": ("mobilenetv2", "resnet8"),
}

Complete = Callable[[FitNet, Outputs], Outputs]
MakeFitNet = Callable[..., FitNet]


@pytest.fixture
def make_fitnet(make_setup: Callable[..., Setup]) -> MakeFitNet:
    def build(student: str, teacher: str, connector: str = "linear", **options: float) -> FitNet:
        spec = Spec(kind="projector", name=connector, options=NoOptions())
        return FitNet(FitNetConfig(projector=spec, **options), make_setup(student, teacher))

    return build


@pytest.fixture
def look(make_step: Callable[..., Step], with_averages: Complete) -> Callable[[FitNet], Step]:
    """Draw the maps that the method reads; the student's have gradients."""

    def outputs(backbone: Backbone, tap: str, seed: int) -> Outputs:
        random = torch.Generator().manual_seed(seed)
        maps = torch.randn(3, *backbone.tap_shapes[tap], generator=random).requires_grad_()
        return Outputs(logits=torch.randn(3, 5, generator=random), taps={tap: maps})

    def draw(method: FitNet) -> Step:
        student = outputs(method.student, method.student_tap, seed=0)
        teacher = outputs(method.setup.teacher, method.teacher_tap, seed=1)
        return make_step(LABELS, student, with_averages(method, teacher))

    return draw


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize(("student", "teacher"), PAIRS.values(), ids=PAIRS)
def test_it_is_the_mean_squared_distance_of_one_stage(
    make_fitnet: MakeFitNet, look: Callable[[FitNet], Step], student: str, teacher: str, stage: int
) -> None:
    method = make_fitnet(student, teacher, stage=stage)
    step = look(method)
    ours, hint = step.student.taps[method.student_tap], step.teachers[0].taps[method.teacher_tap]
    loss = method.losses(step).transfer["fitnet"]
    loss.backward()

    connector = copy.deepcopy(method.projector.layer).double()
    leaf = ours.detach().double().requires_grad_()
    size = tuple(min(pair) for pair in zip(ours.shape[2:], hint.shape[2:], strict=True))
    pool = nn.AdaptiveAvgPool2d(size)
    weight, bias = connector.weight[:, :, 0, 0], connector.bias[:, None, None]
    projected = torch.einsum("oc,bchw->bohw", weight, pool(leaf)) + bias
    expected = 100 * ((projected - pool(hint.double())) ** 2).sum() / projected.numel()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, leaf.grad, rtol=1e-4, atol=1e-5, check_dtype=False)
    for parameter, twin in zip(method.projector.parameters(), connector.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-4, atol=1e-4, check_dtype=False)


def test_the_first_stage_is_the_hint_unless_another_is_asked_for(make_fitnet: MakeFitNet) -> None:
    assert make_fitnet("resnet8", "resnet14").student_taps == ("stage1",)
    assert make_fitnet("resnet8", "resnet14", stage=2).teacher_taps == (("stage2",),)
    last = make_fitnet("vgg8", "resnet14", stage=4)
    assert (last.student_taps, last.teacher_taps) == (("stage4",), (("stage3@2x2",),))


def test_a_stage_that_is_not_there_is_refused(make_fitnet: MakeFitNet) -> None:
    with pytest.raises(KdctlError, match="stage = 4: these models have 3 pairs") as caught:
        make_fitnet("resnet8", "resnet14", stage=4)
    assert caught.value.hint == "set method.stage to a number from 1 to 3."


def test_the_connector_is_the_one_that_was_chosen(make_fitnet: MakeFitNet) -> None:
    assert isinstance(make_fitnet("resnet8", "resnet14").projector, LinearProjector)
    assert isinstance(make_fitnet("resnet8", "resnet14", "pointwise").projector, PointwiseProjector)


def test_a_student_with_the_teachers_features_has_no_loss(
    make_fitnet: MakeFitNet, look: Callable[[FitNet], Step]
) -> None:
    method = make_fitnet("resnet14", "resnet14")
    method.projector = nn.Identity()
    step = look(method)
    step.student.taps.update(step.teachers[0].taps)
    assert method.losses(step).transfer["fitnet"].item() == 0.0


def test_it_stands_beside_the_terms_of_the_predictions(
    make_fitnet: MakeFitNet, look: Callable[[FitNet], Step]
) -> None:
    method = make_fitnet("resnet8", "resnet14")
    assert list(method.losses(look(method)).terms()) == ["task", "kd", "fitnet"]
    alone = make_fitnet("resnet8", "resnet14", kd_weight=0.0)
    assert not alone.reads_teacher_logits
    assert list(alone.losses(look(alone)).terms()) == ["task", "fitnet"]


def test_in_two_stages_the_hint_comes_alone_first_and_is_dropped_after(
    make_fitnet: MakeFitNet, look: Callable[[FitNet], Step]
) -> None:
    method, plain = (make_fitnet("resnet8", "resnet14", hint_share=share) for share in (0.25, 0.0))
    first, second = method.phases()
    assert (first.share, second.share) == (0.25, 0.75)
    step = look(plain)
    together = {name: term.item() for name, term in plain.losses(step).terms().items()}
    for phase, names in ((first, ["fitnet"]), (second, ["task", "kd"])):
        method.begin(phase)
        terms = {name: term.item() for name, term in method.losses(step).terms().items()}
        assert terms == {name: together[name] for name in names}


def test_the_first_stage_reads_and_trains_nothing_after_the_hint(make_fitnet: MakeFitNet) -> None:
    method = make_fitnet("resnet8", "resnet14", hint_share=0.5, stage=2)
    first, second = method.phases()
    method.begin(first)
    assert (method.student_taps, method.teacher_taps) == (("stage2",), (("stage2",),))
    assert not method.reads_student_logits
    assert not method.reads_teacher_logits
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in trained if name.startswith("student")} == {
        *("stem", "stage1_pre", "stage2_pre")
    }
    assert any(name.startswith("projector") for name in trained)
    method.begin(second)
    assert (method.student_taps, method.teacher_taps) == ((), ((),))
    assert method.reads_student_logits
    assert method.reads_teacher_logits
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert trained == {f"student.{name}" for name, _ in method.student.named_parameters()}


def test_predictions_of_the_first_stage_are_those_of_the_untrained_rest(
    make_fitnet: MakeFitNet, make_step: Callable[..., Step]
) -> None:
    method = make_fitnet("resnet8", "resnet14", hint_share=0.5)
    method.begin(method.phases()[0])
    method.eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    student = method.student.observe(images, method.student_taps, with_logits=False)
    teacher = method.setup.teacher.observe(images, method.teacher_taps[0], with_logits=False)
    torch.testing.assert_close(
        method.losses(make_step(LABELS, student, teacher)).logits, method.student(images)
    )
