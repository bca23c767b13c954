"""What a run computes for each image: counted on student and method built without numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.assembly.architecture import Architecture, build_architecture
from kdctl.assembly.assemble import join, make_projector
from kdctl.assembly.data import Sizes
from kdctl.engine.cost import TrainingOperations, count_multiply_adds
from kdctl.engine.device import shapes_computed, shapes_only
from kdctl.engine.phases import divide
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Batch, Distiller, Step, Update
from kdctl.protocols.maps import tap_and_size
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.plan import RunPlan
from kdctl.serialization import canonical_json


@dataclass(frozen=True, kw_only=True)
class ImageOperations:
    """Floating-point operations for an image, of convolutions and matrix products."""

    student: float
    """Of a forward pass of the student alone."""
    teachers: float
    """Of a forward pass of all frozen teachers."""
    training: float
    """Of what the run computes for a training image besides its frozen teachers: forward and backward passes
    of the student and of all that learns or is asked with it. Means over the phases of the training."""
    evaluation: float
    """Of an image that is evaluated: forward passes of the shipped model and of the other classifiers."""


class OperationCounter:
    """Counts what runs compute, each combination of method, models and data once.

    Weights of a method's terms are not looked at, only whether they are 0.
    """

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._known: dict[tuple[Any, ...], ImageOperations] = {}
        self._models: dict[tuple[Architecture, Sizes], tuple[Backbone, float]] = {}

    def of(self, plan: RunPlan, sizes: Sizes) -> ImageOperations:
        """Return what a run computes for each image."""
        known = (
            *(plan.student.name, *(teacher.architecture for teacher in plan.teachers), sizes, plan.epochs),
            *(plan.data.options.batch_size, plan.engine.average_decay > 0),
            canonical_json(_rounded(plan.method.tree())),
        )
        if known not in self._known:
            self._known[known] = self._count(plan, sizes)
        return self._known[known]

    def _count(self, plan: RunPlan, sizes: Sizes) -> ImageOperations:
        student, alone = self._model(plan.student.name, sizes)
        teachers = [self._model(teacher.architecture, sizes) for teacher in plan.teachers]
        plain = ImageOperations(
            student=alone,
            teachers=sum(operations for _, operations in teachers),
            training=3 * alone,
            evaluation=alone,
        )
        try:
            return _count_method(plan, sizes, student, [model for model, _ in teachers], plain)
        except Exception:  # noqa: BLE001 - a plug-in whose code needs numbers: it counts like its student
            return plain

    def _model(self, architecture: Architecture, sizes: Sizes) -> tuple[Backbone, float]:
        """Return a model without weights, which combinations share, with the operations of a forward pass."""
        if (architecture, sizes) not in self._models:
            with shapes_only():
                model = build_architecture(architecture, sizes).eval()
            self._models[architecture, sizes] = model, _forward(model, sizes)
        return self._models[architecture, sizes]


def _rounded(value: Any) -> Any:
    """Return a tree in which fractions are 0 or 1."""
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    return float(bool(value)) if isinstance(value, float) else value


def _count_method(
    plan: RunPlan, sizes: Sizes, student: Backbone, teachers: Sequence[Backbone], plain: ImageOperations
) -> ImageOperations:
    batch_size = plan.data.options.batch_size
    with shapes_computed():
        distiller = join(
            plan,
            student,
            teachers,
            num_samples=batch_size + 1,
            rng=torch.Generator("cpu"),
            projector=make_projector,
        )
        training = plain.training
        if not isinstance(plan.method.options, GeneratedImages):
            spans = divide(distiller.phases(), plan.epochs)
            training = 0.0
            for span in spans:
                distiller.begin(span.phase)
                training += span.epochs / plan.epochs * _step(distiller, batch_size, sizes) / batch_size
    shipped = distiller.inference_model()
    others = [model.module for model in distiller.models() if model.is_classifier]
    averages = [shipped] if plan.engine.average_decay else []
    evaluated = (
        plain.student if model is student else _forward(model, sizes)
        for model in (shipped, *others, *averages)
    )
    return replace(plain, training=training, evaluation=sum(evaluated))


def _step(distiller: Distiller, batch_size: int, sizes: Sizes) -> float:
    """Return the operations of a training step, without those of the frozen teachers."""
    size = sizes.input_size
    images = torch.empty(batch_size, 3, size, size)
    rows = torch.empty(batch_size, dtype=torch.int64)
    batch = Batch(images=images, labels=rows, index=rows)
    distiller.train()
    teachers = tuple(
        _shaped(teacher, taps, batch_size)
        for teacher, taps in zip(distiller.setup.teachers, distiller.teacher_taps, strict=True)
    )
    with TrainingOperations() as counted:
        for update in distiller.updates():
            for _ in range(update.repeats):
                outputs = Outputs(logits=None)
                if update.reads:
                    with torch.set_grad_enabled(_trains_student(distiller, update)):
                        outputs = distiller.student.observe(
                            images, distiller.student_taps, with_logits=distiller.reads_student_logits
                        )
                step = Step(
                    batch=batch,
                    student=outputs,
                    teachers=teachers if update.reads else (),
                    progress=torch.empty(()),
                    learning_rate=torch.empty(()),
                    update=update,
                )
                distiller.losses(step)
    return counted.total


def _shaped(teacher: Backbone, names: Sequence[str], batch_size: int) -> Outputs:
    """Return what a method reads of a frozen teacher, without running it: its shapes are known."""
    taps: dict[str, Tensor] = {}
    for name in names:
        tap, size = tap_and_size(name)
        shape = teacher.tap_shapes[tap]
        taps[name] = torch.empty(batch_size, *(shape if size is None else (shape[0], *size)))
    return Outputs(logits=torch.empty(batch_size, teacher.num_classes), taps=taps)


def _trains_student(distiller: Distiller, update: Update) -> bool:
    """Return whether an update changes weights of the student; else no backward pass goes through it."""
    groups = [
        group for group in distiller.optimized() if update.groups is None or group.name in update.groups
    ]
    trained = {id(parameter) for group in groups for parameter in group.parameters}
    return any(id(parameter) in trained for parameter in distiller.student.parameters())


def _forward(model: nn.Module, sizes: Sizes) -> float:
    return 2.0 * count_multiply_adds(model, sizes.input_size)
