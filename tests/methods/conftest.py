from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.assembly.assemble import make_projector
from kdctl.protocols.backbone import Backbone, Outputs, models
from kdctl.protocols.distiller import Batch, Distiller, Setup, Step
from kdctl.protocols.maps import tap_and_size

NUM_CLASSES = 5
INPUT_SIZE = 16


@pytest.fixture
def draw_model() -> Callable[[str], Backbone]:
    """Build a model whose weights its name decides."""

    def build(name: str) -> Backbone:
        torch.manual_seed(sum(map(ord, name)))
        return models.get(name).item(NUM_CLASSES, INPUT_SIZE)

    return build


class Fixed(nn.Module):
    """A model that predicts given logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


@pytest.fixture
def predicting() -> type[Fixed]:
    """Return a model's class that takes the logits it predicts."""
    return Fixed


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the precision of what is given, where a method computes in fp32."""

    def unchanged(tensor: Tensor) -> Tensor:
        return tensor

    monkeypatch.setattr(Tensor, "float", unchanged)


@pytest.fixture
def make_setup(draw_model: Callable[[str], Backbone]) -> Callable[..., Setup]:
    """Put a student and frozen teachers together."""

    def build(student: str = "resnet8", *teachers: str) -> Setup:
        frozen = [draw_model(name).eval().requires_grad_(requires_grad=False) for name in teachers]
        torch.manual_seed(1)
        return Setup(
            student=draw_model(student),
            teachers=tuple(frozen),
            make_projector=make_projector,
            num_classes=NUM_CLASSES,
            num_samples=40,
            rng=torch.Generator(),
        )

    return build


@pytest.fixture
def make_step() -> Callable[..., Step]:
    """Make a step of given logits or taps."""

    def build(labels: Tensor, student: Outputs, *teachers: Outputs) -> Step:
        batch = Batch(images=torch.zeros(len(labels), 3, 16, 16), labels=labels, index=labels)
        return Step(
            batch=batch,
            student=student,
            teachers=teachers,
            progress=torch.tensor(0.0),
            learning_rate=torch.tensor(0.1),
        )

    return build


@pytest.fixture
def draw_outputs() -> Callable[..., tuple[Outputs, ...]]:
    """Draw what a method reads of its student and of all its teachers; the student's has gradients."""

    def outputs(backbone: Backbone, names: tuple[str, ...], count: int, seed: int) -> Outputs:
        random = torch.Generator().manual_seed(seed)
        maps: dict[str, Tensor] = {}
        for name in names:
            tap, size = tap_and_size(name)
            channels, *whole = backbone.tap_shapes[tap]
            maps[name] = torch.randn(count, channels, *(size or whole), generator=random).relu()
        scale = 1.0 if seed == 0 else 3.0
        logits = scale * torch.randn(count, NUM_CLASSES, generator=random)
        return Outputs(logits=logits, taps=maps)

    def draw(method: Distiller, count: int) -> tuple[Outputs, ...]:
        student = outputs(method.student, method.student_taps, count, 0)
        for tensor in (*student.taps.values(), student.require_logits()):
            tensor.requires_grad_()
        teachers = (
            outputs(backbone, names, count, seed)
            for seed, (backbone, names) in enumerate(
                zip(method.setup.teachers, method.teacher_taps, strict=True), start=1
            )
        )
        return (student, *teachers)

    return draw


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Return logits of a student and of a surer teacher, [6, 5] each."""
    random = torch.Generator().manual_seed(0)
    return 2 * torch.randn(6, 5, generator=random), 4 * torch.randn(6, 5, generator=random)


@pytest.fixture
def with_averages() -> Callable[[Distiller, Outputs], Outputs]:
    """Add the averaged maps that a method reads of its teacher to those of whole stages."""

    def add(method: Distiller, teacher: Outputs) -> Outputs:
        asked = {name: tap_and_size(name) for name in method.teacher_taps[0]}
        averages = {
            name: functional.adaptive_avg_pool2d(teacher.taps[tap], size)
            for name, (tap, size) in asked.items()
            if size is not None
        }
        return Outputs(logits=teacher.logits, taps={**teacher.taps, **averages})

    return add


@pytest.fixture
def draw_stages(
    make_step: Callable[..., Step], with_averages: Callable[[Distiller, Outputs], Outputs]
) -> Callable[..., Step]:
    """Make a step with a map for every stage of student and teacher; the student's have gradients."""

    def outputs(backbone: Backbone, count: int, seed: int, *, rectified: bool) -> Outputs:
        random = torch.Generator().manual_seed(seed)
        maps: dict[str, Tensor] = {}
        for tap in backbone.stage_taps:
            drawn = torch.randn(count, *backbone.tap_shapes[tap], generator=random)
            maps[tap] = (drawn.relu() if rectified else drawn).requires_grad_()
        return Outputs(logits=torch.randn(count, NUM_CLASSES, generator=random), taps=maps)

    def draw(method: Distiller, labels: Tensor, *, rectified: bool = True) -> Step:
        student = outputs(method.student, len(labels), 0, rectified=rectified)
        teacher = outputs(method.setup.teacher, len(labels), 1, rectified=rectified)
        return make_step(labels, student, with_averages(method, teacher))

    return draw
