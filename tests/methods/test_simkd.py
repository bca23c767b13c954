from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.simkd import SimKd, SimKdConfig
from kdctl.projectors.bottleneck import BottleneckConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec

LABELS = torch.tensor([0, 4, 2])
PAIRS = {
    "equal maps": ("resnet8", "resnet14"),
    "student's larger": ("resnet8", "vgg8"),
    "student's smaller": ("vgg8", "resnet8"),
    "a convolution after the teacher's map": ("resnet8", "mobilenetv2"),
    "a convolution after the student's map": ("shufflenetv2", "resnet8"),
}

Complete = Callable[[SimKd, Outputs], Outputs]
MakeSimKd = Callable[..., SimKd]


@pytest.fixture
def make_simkd(make_setup: Callable[..., Setup]) -> MakeSimKd:
    def build(student: str, teacher: str) -> SimKd:
        projector = Spec(kind="projector", name="bottleneck", options=BottleneckConfig())
        return SimKd(SimKdConfig(projector=projector), make_setup(student, teacher))

    return build


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def look(make_step: Callable[..., Step], with_averages: Complete, images: Tensor) -> Callable[[SimKd], Step]:
    """Run both models as the engine would; the student's map is a leaf, for its gradient."""

    def run(method: SimKd) -> Step:
        student = method.student.observe(images, method.student_taps, with_logits=False)
        leaves = {tap: features.detach().requires_grad_() for tap, features in student.taps.items()}
        teacher = method.setup.teacher.observe(images, method.setup.teacher.stage_taps, with_logits=False)
        return make_step(LABELS, Outputs(logits=None, taps=leaves), with_averages(method, teacher))

    return run


def plain_pool(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Average whole blocks of pixels; a map that is not larger stays."""
    height, width = (max(have // want, 1) for have, want in zip(features.shape[2:], size, strict=True))
    rows = [features[:, :, r : r + height].mean(2) for r in range(0, features.shape[2], height)]
    stacked = torch.stack(rows, 2)
    return torch.stack([stacked[..., c : c + width].mean(3) for c in range(0, features.shape[3], width)], 3)


@pytest.mark.parametrize(("student", "teacher"), PAIRS.values(), ids=PAIRS)
def test_it_is_the_mean_squared_distance_of_maps_of_one_size(
    make_simkd: MakeSimKd, look: Callable[[SimKd], Step], student: str, teacher: str
) -> None:
    method = make_simkd(student, teacher)
    projector = copy.deepcopy(method.projector).double()
    step = look(method)
    own = step.student.taps[method.student.final_tap]
    other = step.teachers[0].taps[method.setup.teacher.final_tap]
    loss = method.losses(step).transfer["simkd"]
    loss.backward()

    leaf = own.detach().double().requires_grad_()
    height, width = (min(pair) for pair in zip(own.shape[2:], other.shape[2:], strict=True))
    difference = plain_pool(other.double(), (height, width)) - projector(plain_pool(leaf, (height, width)))
    batch, channels = len(own), other.shape[1]
    assert difference.shape == (batch, channels, height, width)
    expected = (difference**2).sum() / (batch * channels * height * width)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert own.grad is not None
    assert leaf.grad is not None
    scale = leaf.grad.abs().max().item()
    torch.testing.assert_close(own.grad.double(), leaf.grad, rtol=1e-3, atol=1e-4 * scale)
    for parameter, twin in zip(method.projector.parameters(), projector.parameters(), strict=True):
        assert parameter.grad is not None
        assert twin.grad is not None
        torch.testing.assert_close(
            parameter.grad.double(), twin.grad, rtol=1e-3, atol=1e-4 * twin.grad.abs().max().item() + 1e-9
        )


@pytest.mark.parametrize(("student", "teacher"), PAIRS.values(), ids=PAIRS)
def test_it_predicts_with_the_teachers_own_head_on_projected_features(
    make_simkd: MakeSimKd, images: Tensor, student: str, teacher: str
) -> None:
    method = make_simkd(student, teacher).eval()
    backbone = method.setup.teacher
    with torch.no_grad():
        tap = method.student.final_tap
        features = method.student.observe(images, [tap], with_logits=False).taps[tap]
        size = backbone.tap_shapes[backbone.final_tap][1:]
        projected = method.projector(plain_pool(features, (size[0], size[1])))
        if teacher == "mobilenetv2":
            projected = backbone.links["head"](projected)
        expected = projected.mean(dim=(2, 3)) @ backbone.classifier.weight.T + backbone.classifier.bias
        shipped = method.inference_model().eval()
        torch.testing.assert_close(shipped(images), expected, rtol=1e-4, atol=1e-5)


def test_a_student_that_is_the_teacher_loses_nothing_and_predicts_the_same(
    make_simkd: MakeSimKd, look: Callable[[SimKd], Step], images: Tensor
) -> None:
    method = make_simkd("resnet14", "resnet14")
    method.student.load_state_dict(method.setup.teacher.state_dict())
    method.projector = nn.Identity()
    method.eval()
    step = look(method)
    losses = method.losses(step)
    assert losses.total().item() == 0.0
    with torch.no_grad():
        expected = method.setup.teacher(images)
        torch.testing.assert_close(losses.logits, expected)
        assert torch.equal(method.inference_model()(images), expected)


def test_it_uses_neither_labels_nor_logits(make_simkd: MakeSimKd, look: Callable[[SimKd], Step]) -> None:
    method = make_simkd("resnet8", "resnet14")
    assert not method.reads_student_logits
    assert not method.reads_teacher_logits
    losses = method.losses(look(method))
    assert losses.task is None
    assert list(losses.terms()) == ["simkd"]
    assert not losses.logits.requires_grad


@pytest.mark.parametrize(
    ("student", "untrained"),
    [
        ("resnet8", {"pooled", "classifier"}),
        ("mobilenetv2", {"head", "pooled", "classifier"}),
        ("shufflenetv2", {"head", "pooled", "classifier"}),
    ],
)
def test_what_follows_the_students_last_map_is_neither_trained_nor_shipped(
    make_simkd: MakeSimKd, student: str, untrained: set[str]
) -> None:
    method = make_simkd(student, "resnet8")
    assert set(method.frozen_modules()) == untrained
    left_out = {id(p) for piece in method.frozen_modules().values() for p in piece.parameters()}
    assert not left_out & {id(parameter) for parameter in method.inference_model().parameters()}


def test_the_shipped_classifier_is_a_copy(make_simkd: MakeSimKd) -> None:
    method = make_simkd("resnet8", "resnet14")
    teacher = method.setup.teacher
    before = teacher.classifier.weight.clone()
    shipped = method.inference_model()
    *_, weight, bias = shipped.parameters()
    assert torch.equal(weight, before)
    assert torch.equal(bias, teacher.classifier.bias)
    nn.init.zeros_(weight)
    assert torch.equal(teacher.classifier.weight, before)


def test_a_projected_map_of_noise_is_as_far_as_its_variance(
    make_simkd: MakeSimKd, make_step: Callable[..., Step]
) -> None:
    """The mean over C, H and W does not grow with the size of the maps, as a sum would."""
    method = make_simkd("resnet8", "resnet14")
    method.projector = nn.Identity()
    for batch in (2, 64):
        maps = torch.randn(batch, 64, 4, 4, generator=torch.Generator().manual_seed(0))
        step = make_step(
            torch.zeros(batch, dtype=torch.int64),
            Outputs(logits=None, taps={"stage3": torch.zeros_like(maps)}),
            Outputs(logits=None, taps={"stage3": maps}),
        )
        assert math.isclose(method.losses(step).total().item(), 1.0, rel_tol=0.05)
