"""From a plan to the objects that the engine trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from kdctl.assembly.data import Sizes
from kdctl.assembly.run_context import RunContext
from kdctl.engine.batches import GeneratedBatches, Normalisation
from kdctl.engine.device import Compute
from kdctl.engine.frozen import frozen_copy
from kdctl.engine.gang import TrainingData
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.member import Member
from kdctl.engine.optim import build_optimizers
from kdctl.engine.resume import load_state
from kdctl.engine.seeds import derive
from kdctl.engine.streamed_batches import is_streamed, open_evaluation_set, open_training_set
from kdctl.errors import KdctlError
from kdctl.layers.moving_average import MovingAverage
from kdctl.protocols.backbone import Backbone, Shape, models
from kdctl.protocols.dataset import Split, StreamedSplit
from kdctl.protocols.distiller import AVERAGE, Distiller, Setup, methods
from kdctl.protocols.projector import projectors
from kdctl.readers.selection import SelectedData
from kdctl.recipe.component import Spec
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.optimization import Dot
from kdctl.recipe.plan import RunPlan
from kdctl.records import ModelFacts

Built = TypeVar("Built")
CPU = torch.device("cpu")
NUM_TRIED = 8
"""Images on which a teacher's copy is held against the teacher."""


def build_data(
    data: SelectedData, plan: RunPlan, device: torch.device, workers: ImageWorkers
) -> TrainingData:
    """Open the splits that a run reads: all of them, unless its method makes its own images.

    Args:
        data: the splits.
        plan: of the run.
        device: where batches go; small images live there.
        workers: decode images that are not in memory.

    Raises:
        KdctlError: there are too few images, or there is too little memory for buffers; or teachers should
            see batches that are not decoded yet.
    """
    normalise, method = Normalisation(data.mean, data.std, device), plan.method.options
    generates = isinstance(method, GeneratedImages)
    require_lookahead(plan, data.train)
    return TrainingData(
        train=GeneratedBatches(method, device)
        if generates
        else open_training_set(data.train, normalise, plan.data.options, device, workers, data.num_classes),
        val=None if data.val is None else open_evaluation_set(data.val, normalise, device, workers),
        test=open_evaluation_set(data.test, normalise, device, workers),
        workers=workers,
    )


def require_lookahead(plan: RunPlan, train: Split | StreamedSplit | None) -> None:
    """Refuse teachers that should see batches which are not decoded yet.

    Args:
        plan: of the run.
        train: its training images; None: not known, and judged by the options alone.
    """
    lookahead, generates = plan.engine.teacher_lookahead, isinstance(plan.method.options, GeneratedImages)
    if lookahead > 1 and not generates and is_streamed(train, plan.data.options):
        raise KdctlError(
            f"engine.teacher_lookahead = {lookahead} needs training images in memory; these are streamed.",
            "leave it at 1: batches of large images keep a device busy on their own.",
        )


def build_student(plan: RunPlan, sizes: Sizes) -> Backbone:
    """Build the student with the weights that its seed draws."""
    return _seeded(derive(plan.seed, "student"), lambda: build_model(plan.student.name, sizes))


def build_model(name: str, sizes: Sizes) -> Backbone:
    """Build a model for images of the data, with weights that torch's generator draws."""
    return models.get(name).item(*sizes)


def build_distiller(
    plan: RunPlan,
    student: Backbone,
    teachers: Sequence[Backbone],
    *,
    num_samples: int,
    device: torch.device = CPU,
) -> Distiller:
    """Build the method around student and teachers, on the device, as its last phase needs it.

    What that phase does not train does not require gradients.

    Raises:
        KdctlError: student, teachers and method do not fit together.
    """
    rng = torch.Generator(device)
    distiller = join(
        plan.method, student, teachers,
        seed=plan.seed, student_name=plan.student.name,
        num_samples=num_samples, rng=rng, projector=make_projector,
    )  # fmt: skip
    require_average(distiller, plan.engine.average_decay)
    if plan.engine.average_decay:
        distiller.shipped_average = MovingAverage(
            distiller.inference_model(),
            plan.engine.average_decay,
            statistics="averaged" if plan.engine.average_buffers else "copied",
        )
    return distiller.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def join(
    method: Spec,
    student: Backbone,
    teachers: Sequence[Backbone],
    *,
    seed: int,
    student_name: str,
    num_samples: int,
    rng: torch.Generator,
    projector: Callable[[Spec, Shape, Shape], nn.Module],
) -> Distiller:
    """Build the method around student and teachers, in its last phase.

    New modules lie on torch's default device, which is the meta device within `shapes_only`.

    Args:
        method: which, and its options.
        student: built for the data's classes.
        teachers: as they were loaded.
        seed: of the run; the first weights of what the method adds depend on it.
        student_name: of the student's model, for methods that draw parts of it again (`one`).
        num_samples: size of the training set, for methods that keep something for each image.
        rng: what the method draws random numbers from in training.
        projector: builds a projector from its spec and the shapes of its input and output.

    Raises:
        KdctlError: student, teachers and method do not fit together.
    """
    for teacher in teachers:
        if teacher.num_classes != student.num_classes:
            raise KdctlError(
                f"a teacher tells {teacher.num_classes} classes apart, the data have {student.num_classes}.",
                "use a teacher that was trained on the same data.",
            )
    setup = Setup(
        student=student,
        teachers=tuple(teachers),
        make_projector=projector,
        num_classes=student.num_classes,
        num_samples=num_samples,
        rng=rng,
        student_name=student_name,
    )
    kind = methods.get(method.name).item
    distiller = _seeded(derive(seed, "projectors"), lambda: kind(method.options, setup))
    distiller.begin(distiller.phases()[-1])
    return distiller


def require_average(distiller: Distiller, decay: float) -> None:
    """Refuse a moving average of the shipped model where there is none to be had; a decay of 0 asks for none.

    Raises:
        KdctlError: the method has several phases, or a model of that name.
    """
    if decay and len(distiller.phases()) > 1:
        raise KdctlError(
            "engine.average_decay: a method with several phases begins anew with each, an average does not.",
            "leave engine.average_decay out, or choose a method of one phase.",
        )
    if decay and AVERAGE in {model.name for model in distiller.models()}:
        raise KdctlError(
            f"engine.average_decay: the method has a model called '{AVERAGE}' of its own.",
            "leave engine.average_decay out.",
        )


def require_single_gradient(plan: RunPlan) -> None:
    """Refuse batches in parts where gradients of two losses would have to be summed over them.

    Raises:
        KdctlError: the plan asks for both.
    """
    if plan.engine.batch_parts > 1 and isinstance(plan.optimizer.options, Dot):
        raise KdctlError(
            f"engine.batch_parts = {plan.engine.batch_parts}: the optimizer 'dot' keeps the gradients of two "
            "losses apart, which batches in parts do not.",
            "take the batch whole, or choose another optimizer.",
        )


def freeze_teachers(plan: RunPlan, teachers: Sequence[Backbone], data: TrainingData) -> list[Backbone]:
    """Return the teachers as the engine runs them; methods and what is shipped keep the originals.

    Raises:
        KdctlError: a teacher's numbers overflow in the precision that the plan asks for.
    """
    images = next(data.test.images())[:NUM_TRIED]
    return [frozen_copy(teacher, plan.engine, images) for teacher in teachers]


def make_projector(spec: Spec, source: Shape, target: Shape) -> nn.Module:
    """Build the projector that `spec` describes."""
    return projectors.get(spec.name).item(spec.options, source, target)


def build_member(plan: RunPlan, distiller: Distiller, context: RunContext) -> Member:
    """Put a run at its start, or where its saved state left it."""
    trained = (distiller.student, *(model.module for model in distiller.models()))
    undecayed = [
        parameter
        for model in trained
        if isinstance(model, Backbone)
        for parameter in model.undecayed_parameters()
    ]
    member = Member(
        key=plan.key,
        seed=plan.seed,
        distiller=distiller,
        make_optimizers=functools.partial(build_optimizers, plan.optimizer, undecayed=undecayed),
        schedule=plan.schedule.options,
        learning_rate=plan.optimizer.options.learning_rate,
        folder=context.folder(plan.key).path,
        plan=plan.tree(),
    )
    load_state(member)
    return member


def model_facts(distiller: Distiller, teachers: Sequence[Backbone]) -> ModelFacts:
    """Count what is trained and what is shipped."""
    student = count_parameters(distiller.student)
    others = {model.name: count_parameters(model.module) for model in distiller.all_models()}
    return ModelFacts(
        student_parameters=student,
        shipped_parameters=count_parameters(distiller.inference_model()),
        teacher_parameters=max(map(count_parameters, teachers), default=None),
        projector_parameters=_count_added(distiller),
        other_parameters=others,
        untrained=_never_trained(distiller),
    )


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters; batch norm's running statistics are not counted, as in papers."""
    return sum(parameter.numel() for parameter in module.parameters())


def _count_added(distiller: Distiller) -> int:
    """Return the parameters that are neither the student's nor those of another model of the run."""
    models = (distiller.student, *(model.module for model in distiller.all_models()))
    known = {id(parameter) for model in models for parameter in model.parameters()}
    return sum(parameter.numel() for parameter in distiller.parameters() if id(parameter) not in known)


def _never_trained(distiller: Distiller) -> tuple[str, ...]:
    """Name the pieces that no phase trains; the phase that has begun goes on."""
    untrained: list[dict[str, nn.Module]] = []
    running = distiller.phase
    for phase in distiller.phases():
        distiller.look_at(phase)
        untrained.append(distiller.frozen_modules())
    distiller.look_at(running)
    return tuple(name for name in untrained[0] if all(name in pieces for pieces in untrained))


def build_compute(plan: RunPlan, device: torch.device) -> Compute:
    """Return the device with the plan's precision."""
    return Compute(device=device, options=plan.engine)


def _seeded(seed: int, build: Callable[[], Built]) -> Built:
    """Build modules whose first weights depend on `seed` alone; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
