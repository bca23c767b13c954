from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdctl.methods.sequential import SequentialConfig, SequentialTraining
from kdctl.methods.simkd import SimKd, SimKdConfig
from kdctl.projectors.bottleneck import BottleneckConfig
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec

LABELS = torch.tensor([0, 4, 2])
PROJECTOR = Spec(kind="projector", name="bottleneck", options=BottleneckConfig())

MakeSequential = Callable[..., SequentialTraining]
Look = Callable[[SequentialTraining], Step]


@pytest.fixture
def make_sequential(make_setup: Callable[..., Setup]) -> MakeSequential:
    """Build the method at the beginning of one of its phases."""

    def build(
        student: str = "resnet8", teacher: str = "resnet14", phase: int = 0, **options: Any
    ) -> SequentialTraining:
        method = SequentialTraining(
            SequentialConfig(projector=PROJECTOR, **options), make_setup(student, teacher)
        )
        method.begin(method.phases()[phase])
        return method.train()

    return build


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def look(make_step: Callable[..., Step], images: Tensor) -> Look:
    """Run both models as the engine would."""

    def run(method: SequentialTraining) -> Step:
        student = method.student.observe(images, method.student_taps, with_logits=False)
        teacher = method.setup.teacher.observe(images, method.teacher_taps[0], with_logits=False)
        return make_step(LABELS, student, teacher)

    return run


@pytest.mark.parametrize("feature", ["student", "projected"])
@pytest.mark.parametrize("teacher", ["resnet14", "vgg8", "mobilenetv2"])
def test_the_first_phase_is_simkd(
    make_sequential: MakeSequential, make_setup: Callable[..., Setup], look: Look, feature: str, teacher: str
) -> None:
    method = make_sequential("resnet8", teacher, feature=feature)
    twin = SimKd(SimKdConfig(projector=PROJECTOR), make_setup("resnet8", teacher)).train()
    twin.projector.load_state_dict(method.projector.state_dict())
    step = look(method)
    losses = method.losses(step)
    assert losses.task is None
    torch.testing.assert_close(losses.total(), twin.losses(step).total())
    assert not losses.logits.requires_grad


def test_batch_norm_of_the_projector_sees_each_batch_once(
    make_sequential: MakeSequential, look: Look
) -> None:
    method = make_sequential(feature="projected")
    method.losses(look(method))
    counts = {v.item() for k, v in method.projector.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {1}


@pytest.mark.parametrize("student", ["resnet8", "mobilenetv2"])
def test_the_second_phase_trains_what_follows_the_students_last_map(
    make_sequential: MakeSequential, look: Look, images: Tensor, student: str
) -> None:
    method = make_sequential(student, phase=1)
    expected = copy.deepcopy(method.student).eval()
    losses = method.losses(look(method))
    losses.total().backward()
    assert (list(losses.terms()), method.teacher_taps) == (["task"], ((),))
    own = set(method.student.pieces_after(method.student.final_tap))
    with_gradients = {
        name.removeprefix("student.links.").removeprefix("student.").partition(".")[0]
        for name, parameter in method.named_parameters()
        if parameter.grad is not None
    }
    assert with_gradients == own - {"pooled"}
    if student == "resnet8":  # no batch norm after the map: it predicts as in eval mode
        torch.testing.assert_close(losses.logits, expected(images))
        torch.testing.assert_close(losses.total(), functional.cross_entropy(expected(images), LABELS))
    assert method.inference_model() is method.student


def test_a_classifier_on_projected_features_is_as_wide_as_the_teacher(
    make_sequential: MakeSequential, look: Look, images: Tensor
) -> None:
    method = make_sequential("resnet8", "mobilenetv2", phase=1, feature="projected")
    teacher, size = method.setup.teacher, method.size
    losses = method.losses(look(method))
    features = method.student.encoder("stage3").eval()(images)
    vectors = method.projector(functional.adaptive_avg_pool2d(features, size)).mean(dim=(2, 3))
    assert vectors.shape == (3, teacher.tap_shapes[teacher.final_tap][0])
    assert method.new_classifier is not None
    torch.testing.assert_close(losses.logits, method.new_classifier[1](vectors))
    torch.testing.assert_close(losses.total(), functional.cross_entropy(losses.logits, LABELS))
    torch.testing.assert_close(method.inference_model().eval()(images), losses.logits)
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert trained == {"new_classifier.1.weight", "new_classifier.1.bias"}


@pytest.mark.parametrize("feature", ["student", "projected"])
def test_each_parameter_that_is_shipped_is_trained_in_exactly_one_phase(
    make_sequential: MakeSequential, feature: str
) -> None:
    method = make_sequential(feature=feature)
    trained: list[set[str]] = []
    for phase in method.phases():
        method.begin(phase)
        trained.append({name for name, parameter in method.named_parameters() if parameter.requires_grad})
    assert not trained[0] & trained[1]
    shipped = {id(parameter) for parameter in method.inference_model().parameters()}
    names = {name for name, parameter in method.named_parameters() if id(parameter) in shipped}
    assert names <= trained[0] | trained[1]


def test_it_ships_the_plain_student_unless_the_classifier_reads_projected_features() -> None:
    assert SequentialTraining.ships_student(SequentialConfig(feature="student"))
    assert not SequentialTraining.ships_student(SequentialConfig(feature="projected"))
