"""What a method must offer: turning the outputs of student and teachers into losses."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kdctl.protocols.backbone import Backbone, Shape, models
from kdctl.protocols.maps import tap_and_size
from kdctl.protocols.step import WHOLE_STEP, Batch, DivergedError, Losses, ParameterGroup, Phase, Step, Update
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions, Registry

__all__ = [
    "Batch", "Distiller", "DivergedError", "Losses", "Match", "NamedModel", "ParameterGroup", "Phase",
    "Setup", "Step", "Update", "methods",
]  # fmt: skip

AVERAGE = "ema"
"""Name of the model whose weights are a moving average of the shipped one's."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a method is built from."""

    student: Backbone
    teachers: tuple[Backbone, ...]
    """Frozen and in eval mode: never trained or saved by a method."""
    make_projector: Callable[[Spec, Shape, Shape], nn.Module]
    """(chosen projector, source shape, target shape) -> module."""
    num_classes: int
    num_samples: int
    """Size of the training set: the range of `Batch.index`."""
    rng: torch.Generator
    """The only source of randomness inside `losses` and `prepare_epoch`; set anew before each of them."""
    student_name: str = ""
    """Of the student's model, for `make_model`; empty where it was not made by a name."""

    @property
    def teacher(self) -> Backbone:
        """The first teacher."""
        return self.teachers[0]

    def make_model(self, name: str) -> Backbone:
        """Build the model called `name` for the student's images and classes; for a method's `__init__`.

        Raises:
            KdctlError: there is no such model, or it does not take such images.
        """
        return models.get(name).item(self.num_classes, self.student.input_size)


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model of the run beside the one that is shipped: an adapted teacher, a peer, a generator."""

    name: str
    """In results, in the names of checkpoints and for `kdctl eval --model`."""
    module: nn.Module
    """A classifier takes images [B, 3, H, W] to logits [B, K]."""
    is_classifier: bool = True
    """Classifiers are evaluated, before the training and after each epoch, beside the student."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A tap of the student that is held against one of a teacher; for plans, not for training."""

    student: str
    teacher: str
    weight: float | None = None
    """What the distance is multiplied by within the method's own term; None: not told, or learned."""
    teacher_index: int = 0
    """Which of the teachers."""


class Distiller(nn.Module):
    """How a student is distilled; subclass it in `methods/<name>.py`.

    A subclass writes `losses`, names the taps it reads, and creates the modules it trains in
    `__init__`. In `losses`: no host reads (`.item()`, `if tensor`), no data-dependent shapes, randomness
    only from `setup.rng`, schedules only from `step.progress` and `step.learning_rate`.
    """

    Config: ClassVar[type] = NoOptions
    num_teachers: ClassVar[tuple[int, int | None]] = (1, 1)
    """Fewest and most teachers the method takes; None: no limit."""
    graph_safe: ClassVar[bool] = True
    """False: the engine may not record a step and replay it, and calls `losses` and `after_update` anew.

    A replay repeats operations on tensors, not Python: what is kept from step to step must be in buffers
    that are changed in place."""

    def __init__(self, config: Any, setup: Setup) -> None:
        """Keep the student as a submodule; the teachers stay outside."""
        super().__init__()
        self.config = config
        self.setup = setup
        self.student = setup.student
        self.student_taps: tuple[str, ...] = ()
        """Taps of the student that `losses` reads."""
        self.teacher_taps: tuple[tuple[str, ...], ...] = tuple(() for _ in setup.teachers)
        """Taps of each teacher that `losses` reads; or names of `Backbone.tap_at`, for averaged maps."""
        self.reads_student_logits = True
        """False: the engine runs the student only up to its last tap."""
        self.reads_teacher_logits = True
        """False: the engine runs the teachers only up to their last tap."""
        self.shipped_average: nn.Module | None = None
        """What the engine keeps a moving average of the shipped model in; None: it keeps none."""
        self.phase = self.phases()[-1]
        """The running phase; before and after training the last one, whose model is shipped."""

    @classmethod
    def ships_student(cls, config: Any) -> bool:
        """Whether `inference_model` is the student as it is, so that it can teach others by itself."""
        return True

    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of the training in their order, as `config` says."""
        return (Phase(),)

    def arrange(self) -> None:
        """Set what is read in `self.phase`: taps and logits. Only methods with several phases need it."""

    def matches(self) -> tuple[Match, ...]:
        """Return which taps are held against each other in `self.phase`.

        By default each tap of the student is compared with the teacher's tap at the same place, if both have
        equally many; else every one with every one.
        """
        own = self.student_taps
        return tuple(
            Match(student=student, teacher=teacher, teacher_index=index)
            for index, other in enumerate(self.teacher_taps)
            for student, teacher in (
                zip(own, other, strict=True) if len(own) == len(other) else itertools.product(own, other)
            )
        )

    def updates(self) -> tuple[Update, ...]:
        """Return what a training step of `self.phase` consists of, in order: `losses` is called for each.

        Each ends, with the step of its optimizers, before the next begins: so a student may learn from images
        of a generator that the update before has trained.
        """
        return (WHOLE_STEP,)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Return what is trained in `self.phase`, by which optimizer; each parameter is in one group.

        A parameter in no group must belong to `frozen_modules` or `averaged_modules`. By default all others
        form one group.
        """
        left_out = {id(parameter) for parameter in self._not_optimized()}
        free = (parameter for parameter in self.parameters() if id(parameter) not in left_out)
        return (ParameterGroup(name="all", parameters=tuple(free)),)

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Return by name what no loss of this phase trains; by default what is after the last tap.

        What runs nevertheless, such as a frozen encoder, runs in eval mode and without gradients.
        """
        if self.reads_student_logits or not self.student_taps:
            return {}
        order = list(self.student.tap_shapes)
        last = max((tap_and_size(name)[0] for name in self.student_taps), key=order.index)
        return self.student.pieces_after(last)

    def averaged_modules(self) -> dict[str, nn.Module]:
        """Return the modules that `after_update` changes and no optimizer trains, such as moving averages."""
        return {}

    def eval_modules(self) -> Iterable[nn.Module]:
        """Return the modules that run in eval mode in training: by default those that are not optimized."""
        return (*self.frozen_modules().values(), *self.averaged_modules().values())

    def models(self) -> tuple[NamedModel, ...]:
        """Return the models of the run beside the one that is shipped, the same in every phase."""
        return ()

    def all_models(self) -> tuple[NamedModel, ...]:
        """Return the models of the method, and the moving average of the shipped one where there is one."""
        if self.shipped_average is None:
            return self.models()
        return (*self.models(), NamedModel(name=AVERAGE, module=self.shipped_average.get_submodule("model")))

    def check_optimizer(self, optimizer: Spec) -> None:
        """Raise KdctlError where the recipe's optimizer is none that the method can learn by."""

    def make_batch(self, update: Update) -> Batch:
        """Return the images of an update, for a method whose `Config` is `GeneratedImages`."""
        raise TypeError(f"{type(self).__name__} must define make_batch()")

    def prepare_epoch(self, *, first_of_phase: bool) -> None:
        """Do what an epoch needs before its first step, such as inventing images; may read the device.

        Called once for each epoch, with `setup.rng` set by (run seed, epoch): not while a run is planned, nor
        again when it goes on within the epoch. Its results belong in buffers, which are saved.

        Raises:
            DivergedError: they are no numbers any more; the run ends as diverged.
        """

    def epoch_metrics(self) -> Mapping[str, float]:
        """Return what is worth seeing of the method's modules at the end of an epoch, by name; logged only.

        May read the device. Not called in the middle of an epoch, so that it costs next to nothing, nor of a
        run that has diverged.
        """
        return {}

    def invented_images(self) -> Tensor | None:
        """Return images [N, 3, H, W] that the method makes now, normalised, for a picture; None: none.

        Asked for at the end of some epochs; changes nothing, least of all random numbers.
        """
        return None

    def begin(self, phase: Phase) -> None:
        """Make ready to train in `phase`; what it does not train is frozen from here on.

        Whatever was prepared for the steps of another phase does not hold any more.
        """
        self.phase = phase
        self.arrange()
        trained = {id(parameter) for group in self.optimized() for parameter in group.parameters}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)
            parameter.grad = None

    def look_at(self, phase: Phase) -> None:
        """Begin a phase to see what it reads and trains; nothing needs to be done for the one that runs."""
        if phase != self.phase:
            self.begin(phase)

    def optimized(self) -> tuple[ParameterGroup, ...]:
        """Return the parameter groups without what is frozen or averaged.

        Raises:
            ValueError: a parameter is in two groups, or in none and not declared as frozen or averaged.
        """
        left_out = {id(parameter) for parameter in self._not_optimized()}
        groups = tuple(
            replace(group, parameters=tuple(p for p in group.parameters if id(p) not in left_out))
            for group in self.parameter_groups()
        )
        counts = Counter(id(parameter) for group in groups for parameter in group.parameters)
        for name, parameter in self.named_parameters():
            if counts[id(parameter)] != (id(parameter) not in left_out):
                where = "two parameter groups" if counts[id(parameter)] else "no parameter group"
                raise ValueError(f"{type(self).__name__}: {name} is in {where}")
        return groups

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; those of `eval_modules` stay in eval mode."""
        super().train(mode)
        for module in self.eval_modules():
            module.eval()
        if self.shipped_average is not None:
            self.shipped_average.eval()
        return self

    def _not_optimized(self) -> Iterable[nn.Parameter]:
        average = () if self.shipped_average is None else (self.shipped_average,)
        modules = (*self.frozen_modules().values(), *self.averaged_modules().values(), *average)
        return itertools.chain.from_iterable(module.parameters() for module in modules)

    def losses(self, step: Step) -> Losses:
        """Turn one step's outputs into the terms to minimise."""
        raise TypeError(f"{type(self).__name__} must define losses()")

    def after_update(self, step: Step) -> None:
        """Do what follows the optimizer's step: memory banks, moving averages."""

    def first_not_finite(self) -> tuple[str, ...]:
        """Name the models whose losses were the first not to be finite; asked after a run diverged."""
        return ()

    def inference_model(self) -> nn.Module:
        """Return what would be shipped after this phase: images [B, 3, H, W] -> logits [B, K]."""
        return self.student


methods: Registry[type[Distiller]] = Registry("method", "kdctl.methods", base=Distiller)
