"""What a run computes for each image: counted on student and method built without numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.assembly.data import Sizes
from kdctl.assembly.sanity_checks import first_losses, run_student
from kdctl.engine.cost import TrainingOperations
from kdctl.engine.device import shapes_computed
from kdctl.engine.phases import divide
from kdctl.errors import ANY_FAILURE
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Batch, Distiller, Losses, Update
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


def same_operations(plan: RunPlan, sizes: Sizes) -> Hashable:
    """Return what decides how much a run computes for an image: runs that have it in common compute as much.

    Weights and temperatures of a method's terms are not looked at, only whether they are 0. Other fractions
    may be depths, widths or lengths of phases.
    """
    models = (plan.student.name, *(teacher.architecture for teacher in plan.teachers))
    steps = (plan.epochs, plan.data.options.batch_size, plan.engine.average_decay > 0)
    return models, sizes, steps, canonical_json(_rounded(plan.method.tree()))


def _rounded(value: Any, name: str = "") -> Any:
    """Return a tree in which weights and temperatures are 0 or 1."""
    if isinstance(value, Mapping):
        return {name: _rounded(part, name) for name, part in value.items()}
    scales = isinstance(value, float) and name.endswith(("weight", "temperature"))
    return float(bool(value)) if scales else value


class OperationCounter:
    """Counts on models and methods without numbers; how far each model is run, it is run once."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._passes: dict[tuple[Backbone, str | None], float] = {}

    def alone(self, student: Backbone, teachers: Sequence[Backbone]) -> ImageOperations:
        """Return what a student computes that learns from labels."""
        forward = self._pass(student)
        return ImageOperations(
            student=forward,
            teachers=sum(self._pass(teacher) for teacher in teachers),
            training=3 * forward,
            evaluation=forward,
        )

    def of(self, distiller: Distiller, plan: RunPlan) -> ImageOperations:
        """Return what a run computes; its method is left in its last phase."""
        alone = self.alone(distiller.student, distiller.setup.teachers)
        training = alone.training
        if not isinstance(plan.method.options, GeneratedImages):
            batch_size, training = plan.data.options.batch_size, 0.0
            for span in divide(distiller.phases(), plan.epochs):
                distiller.look_at(span.phase)
                training += span.epochs / plan.epochs * self._step(distiller, batch_size) / batch_size
        shipped = distiller.inference_model()
        others = [model.module for model in distiller.models() if model.is_classifier]
        averages = [shipped] if plan.engine.average_decay else []
        evaluated = (
            alone.student if model is distiller.student else _forward(model, distiller.student.input_size)
            for model in (shipped, *others, *averages)
        )
        return replace(alone, training=training, evaluation=sum(evaluated))

    def _pass(self, model: Backbone, last: str | None = None) -> float:
        """Return the operations of a forward pass for an image, up to a tap; None: up to the logits."""
        if (model, last) not in self._passes:
            count = _forward(model, model.input_size) if last is None else _up_to(model, last)
            self._passes[model, last] = count
        return self._passes[model, last]

    def _step(self, distiller: Distiller, batch_size: int) -> float:
        """Return the operations of a training step, without those of the frozen teachers."""
        try:
            return self._student_in(distiller, batch_size) + _losses(
                distiller, batch_size, runs_student=False
            )
        except ANY_FAILURE:  # losses of a plug-in that go back into the student
            return _losses(distiller, batch_size, runs_student=True)

    def _student_in(self, distiller: Distiller, batch_size: int) -> float:
        """Return what a step computes in the student's own passes: three forward passes if it learns."""
        student, last = distiller.student, None
        if not distiller.reads_student_logits:
            taps = [tap_and_size(name)[0] for name in distiller.student_taps]
            last = max(taps, key=list(student.tap_shapes).index, default="")
        forward = 0.0 if last == "" else batch_size * self._pass(student, last)
        return sum(
            update.repeats * (3 if _trains_student(distiller, update) else 1) * forward
            for update in distiller.updates()
            if update.reads
        )


def _losses(distiller: Distiller, batch_size: int, *, runs_student: bool) -> float:
    """Return what the losses of a training step compute; with the student's passes where it `runs_student`.

    Where it does not, its outputs are told by their shapes, which takes a fraction of the time.
    """
    with shapes_computed(), TrainingOperations() as counted:
        for _ in losses_of_a_step(distiller, batch_size, runs_student=runs_student):
            pass
    return counted.total


def losses_of_a_step(distiller: Distiller, batch_size: int, *, runs_student: bool) -> Iterator[Losses]:
    """Yield the losses of each update of a training step; to be called within `shapes_computed`.

    Args:
        distiller: without numbers, in the phase that is asked for.
        batch_size: images in the step.
        runs_student: whether the student is run; else its outputs are told by their shapes.
    """
    distiller.train()
    size = distiller.student.input_size
    images = torch.empty(batch_size, 3, size, size)
    rows = torch.empty(batch_size, dtype=torch.int64)
    batch = Batch(images=images, labels=rows, index=rows)
    teachers = tuple(
        _shaped(teacher, taps, batch_size)
        for teacher, taps in zip(distiller.setup.teachers, distiller.teacher_taps, strict=True)
    )
    for update in distiller.updates():
        for _ in range(update.repeats):
            outputs = Outputs(logits=None)
            if update.reads and runs_student:
                with torch.set_grad_enabled(_trains_student(distiller, update)):
                    outputs = run_student(distiller, images)
            elif update.reads:
                outputs = _shaped(distiller.student, distiller.student_taps, batch_size)
                outputs = outputs if distiller.reads_student_logits else replace(outputs, logits=None)
            yield first_losses(distiller, update, batch, outputs, teachers)


def _shaped(model: Backbone, names: Sequence[str], batch_size: int) -> Outputs:
    """Return what a method reads of a model, without running it: its shapes are known."""
    taps: dict[str, Tensor] = {}
    for name in names:
        tap, size = tap_and_size(name)
        shape = model.tap_shapes[tap]
        taps[name] = torch.empty(batch_size, *(shape if size is None else (shape[0], *size)))
    return Outputs(logits=torch.empty(batch_size, model.num_classes), taps=taps)


def _trains_student(distiller: Distiller, update: Update) -> bool:
    """Return whether an update changes weights of the student; else no backward pass goes through it."""
    groups = [
        group for group in distiller.optimized() if update.groups is None or group.name in update.groups
    ]
    trained = {id(parameter) for group in groups for parameter in group.parameters}
    return any(id(parameter) in trained for parameter in distiller.student.parameters())


def _up_to(model: Backbone, last: str) -> float:
    """Return the operations of a forward pass up to a tap, for an image."""
    size = model.input_size
    with shapes_computed(), torch.no_grad(), TrainingOperations() as counted:
        model.eval().observe(torch.empty(1, 3, size, size), [last], with_logits=False)
    return counted.total


def _forward(model: nn.Module, input_size: int) -> float:
    """Return the operations of a forward pass for an image."""
    with shapes_computed(), torch.no_grad(), TrainingOperations() as counted:
        model.eval()(torch.empty(1, 3, input_size, input_size))
    return counted.total
