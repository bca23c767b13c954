"""Projectors and a training step, tried when a run is planned: mistakes show before a teacher is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.assembly.assemble import make_projector
from kdctl.assembly.failure import asks_for_gpu, brief, is_memory
from kdctl.engine.device import shapes_only
from kdctl.engine.phases import divide
from kdctl.errors import ANY_FAILURE, KdctlError, place_of
from kdctl.protocols.backbone import Backbone, Outputs, Shape
from kdctl.protocols.distiller import Batch, Distiller, Losses, Step, Update
from kdctl.protocols.maps import tap_and_size
from kdctl.recipe.component import Spec
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.plan import RunPlan

_NUM_MAPS = 2
"""Samples in the maps that projectors are tried on."""

_SMALL, _NUM_SMALL, _NUM_LARGE = 64, 64, 16
"""Of images of at most so many pixels a side so many are drawn, of larger ones fewer, for CPUs to bear it."""


def tried_projector(spec: Spec, source: Shape, target: Shape) -> nn.Module:
    """Build a projector without weights and see where it takes features.

    Raises:
        KdctlError: not to the teacher's shape, or it does not take the student's features.
    """
    with shapes_only():
        projector = make_projector(spec, source, target).eval()
        try:
            reached = tuple(projector(torch.empty(_NUM_MAPS, *source)).shape[1:])
        except NotImplementedError:  # an operation that needs numbers: the run will show
            return projector
        except RuntimeError as error:
            raise _unfit(spec, source, f"fails on them ({str(error).splitlines()[0]})") from error
    if reached != target:
        raise _unfit(spec, source, f"makes {list(reached)} of them, the teacher has {list(target)}")
    return projector


def _unfit(spec: Spec, source: Shape, what: str) -> KdctlError:
    return KdctlError(
        f"projector '{spec.name}' does not fit: the student has features {list(source)}, and it {what}.",
        "choose another one: kdctl list projectors.",
    )


def require_known_taps(distiller: Distiller) -> None:
    """Refuse a method that reads taps which its models do not have.

    Raises:
        KdctlError: it does in the phase that has begun.
    """
    models = [distiller.student, *distiller.setup.teachers]
    read = [distiller.student_taps, *distiller.teacher_taps]
    for place, (model, names) in enumerate(zip(models, read, strict=True)):
        for name in names:
            if tap_and_size(name)[0] not in model.tap_shapes:
                raise KdctlError(
                    f"the method reads tap '{name}' of {'a teacher' if place else 'the student'}, "
                    "which has none of that name.",
                    f"its taps: {', '.join(model.tap_shapes)}.",
                )


def first_losses(
    distiller: Distiller, update: Update, batch: Batch, student: Outputs, teachers: tuple[Outputs, ...]
) -> Losses:
    """Return what a method answers to an update in the first step of the phase that has begun.

    Raises:
        KdctlError: it is no `Losses`, or not of terms that are one number each.
    """
    answer = distiller.losses(
        Step(
            batch=batch,
            student=student,
            teachers=teachers if update.reads else (),
            progress=torch.zeros(()),
            learning_rate=torch.ones(()),
            update=update,
        )
    )
    _require_losses(answer)
    return answer


def run_student(distiller: Distiller, images: Tensor) -> Outputs:
    """Return what a method reads of its student."""
    return distiller.student.observe(
        images, distiller.student_taps, with_logits=distiller.reads_student_logits
    )


def _require_losses(answer: object) -> None:
    """Refuse what the engine cannot train; a plug-in may answer anything."""
    if not isinstance(answer, Losses):
        raise KdctlError(
            f"losses() of the method returns a {type(answer).__name__}, not Losses.",
            "return Losses(task=..., transfer={...}, logits=...) of kdctl.protocols.distiller.",
        )
    if not (terms := answer.terms()):
        raise KdctlError(
            "losses() of the method returns no term to minimise.", "give it a task, or a term in transfer."
        )
    for name, term in terms.items():
        if what := _beyond_a_number(term):
            raise KdctlError(
                f"losses() of the method returns a term '{name}' {what}; each is a tensor of one number.",
                "reduce it, as by .mean().",
            )


def _beyond_a_number(term: Any) -> str:
    """Say what a term is that is no tensor of one number; a plug-in may put anything there."""
    if not isinstance(term, Tensor):
        return f"that is {term!r}"
    return f"of shape {list(term.shape)}" if term.dim() else ""


def require_step(distiller: Distiller, plan: RunPlan, num_samples: int) -> None:
    """Refuse a method whose step fails on numbers, in any of its phases; it is tried on the CPU.

    Left out are methods that prepare an epoch, and code that asks for a GPU: they may fail for good reasons.

    Args:
        distiller: built with numbers; it is left in its last phase.
        plan: of the run.
        num_samples: in the training set.

    Raises:
        KdctlError: it fails, and where.
    """
    prepares = type(distiller).prepare_epoch is not Distiller.prepare_epoch
    if prepares or isinstance(plan.method.options, GeneratedImages):
        return
    with torch.random.fork_rng(devices=[]):  # planning leaves a GPU alone
        distiller.train()
        batch = _drawn_batch(distiller, plan, num_samples)
        for span in divide(distiller.phases(), plan.epochs):
            distiller.begin(span.phase)
            for update in distiller.updates():
                try:
                    _losses(distiller, batch, update).total().backward()
                except KdctlError:
                    raise
                except ANY_FAILURE as error:
                    if is_memory(error) or asks_for_gpu(error):  # elsewhere it may do
                        return
                    raise KdctlError(
                        f"a training step of the method fails: {brief(error)} ({place_of(error)}).",
                        "mend the code it names; tried on drawn images, before anything is trained.",
                    ) from error


def _drawn_batch(distiller: Distiller, plan: RunPlan, num_samples: int) -> Batch:
    size, options = distiller.student.input_size, plan.data.options
    count = min(options.batch_size, num_samples, _NUM_SMALL if size <= _SMALL else _NUM_LARGE)
    labels = torch.randint(distiller.setup.num_classes, (count,))
    if options.mixup or options.cutmix or options.label_smoothing:
        labels = torch.nn.functional.one_hot(labels, distiller.setup.num_classes).float()
    return Batch(images=torch.rand(count, 3, size, size), labels=labels, index=torch.arange(count))


def _losses(distiller: Distiller, batch: Batch, update: Update) -> Losses:
    student, teachers = Outputs(logits=None), tuple[Outputs, ...]()
    if update.reads:
        student = run_student(distiller, batch.images)
        read = zip(distiller.setup.teachers, distiller.teacher_taps, strict=True)
        teachers = tuple(_asked(teacher, taps, batch) for teacher, taps in read)
    return first_losses(distiller, update, batch, student, teachers)


def _asked(teacher: Backbone, taps: Sequence[str], batch: Batch) -> Outputs:
    with torch.no_grad():
        return teacher.eval().observe(batch.images, taps)
