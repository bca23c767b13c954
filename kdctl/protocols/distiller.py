"""What a method must offer: turning the outputs of student and teachers into losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kdctl.protocols.backbone import Backbone, Outputs, Shape
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions, Registry


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch, already augmented and normalised, on the device."""

    images: Tensor
    """[B, 3, H, W], float."""
    labels: Tensor
    """[B], int64."""
    index: Tensor
    """[B], int64: which training samples these are."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """All that a method sees of one training step."""

    batch: Batch
    student: Outputs
    teachers: tuple[Outputs, ...]
    progress: Tensor
    """0-dim, on the device, from 0 at the first step to 1 after the last: schedules read this."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a method answers: the terms whose sum is trained."""

    task: Tensor | None
    """Weighted loss against the labels, 0-dim; None when the method has none (weight 0)."""
    transfer: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Weighted distillation terms by name, 0-dim each."""
    logits: Tensor
    """[B, K]: predictions on this batch, for the training accuracy only."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What else is worth seeing, by name: means over the batch, 0-dim each; logged, not trained."""

    def terms(self) -> dict[str, Tensor]:
        """Return all terms by name, the task's first."""
        task = {} if self.task is None else {"task": self.task}
        return {**task, **self.transfer}

    def total(self) -> Tensor:
        """Return the sum that is minimised, 0-dim."""
        return torch.stack([term.float() for term in self.terms().values()]).sum()


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
    """The only source of randomness inside `losses`; set anew before every step."""

    @property
    def teacher(self) -> Backbone:
        """The first teacher."""
        return self.teachers[0]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training with losses of its own.

    Optimizer, learning-rate schedule and `step.progress` begin anew with it.
    """

    name: str = ""
    """For plans and results; empty where there is only one."""
    share: float = 1.0
    """Of the run's epochs; those of all phases sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A tap of the student that is held against one of the first teacher; for plans, not for training."""

    student: str
    teacher: str
    weight: float | None = None
    """What the distance is multiplied by within the method's own term; None: not told, or learned."""


class Distiller(nn.Module):
    """How a student is distilled; subclass it in `methods/<name>.py`.

    A subclass writes `losses`, names the taps it reads, and creates the modules it trains in
    `__init__`. In `losses`: no host reads (`.item()`, `if tensor`), no data-dependent shapes,
    randomness only from `setup.rng`, schedules only from `step.progress`.
    """

    Config: ClassVar[type] = NoOptions
    num_teachers: ClassVar[tuple[int, int | None]] = (1, 1)
    """Fewest and most teachers the method takes; None: no limit."""
    graph_safe: ClassVar[bool] = True
    """False: the engine may not record a step and replay it, and calls `losses` and `after_update` anew.

    A replay repeats operations on tensors, not Python: what a method keeps from step to step must be
    in buffers that it changes in place.
    """

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

        By default the taps as they stand in line, where there are as many on both sides; else each of
        the student with each of the first teacher.
        """
        own, other = self.student_taps, self.teacher_taps[0] if self.teacher_taps else ()
        pairs = zip(own, other, strict=True) if len(own) == len(other) else itertools.product(own, other)
        return tuple(Match(student=student, teacher=teacher) for student, teacher in pairs)

    def begin(self, phase: Phase) -> None:
        """Make ready to train in `phase`; what it does not train is frozen from here on.

        Whatever was prepared for the steps of another phase does not hold any more.
        """
        self.phase = phase
        self.arrange()
        frozen = {
            id(parameter) for piece in self.untrained_pieces().values() for parameter in piece.parameters()
        }
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
            parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; what is frozen stays in eval mode."""
        super().train(mode)
        for piece in self.untrained_pieces().values():
            piece.eval()
        return self

    def losses(self, step: Step) -> Losses:
        """Turn one step's outputs into the terms to minimise."""
        raise TypeError(f"{type(self).__name__} must define losses()")

    def after_update(self, step: Step) -> None:
        """Do what follows the optimizer's step: memory banks, moving averages."""

    def inference_model(self) -> nn.Module:
        """Return what would be shipped after this phase: images [B, 3, H, W] -> logits [B, K]."""
        return self.student

    def untrained_pieces(self) -> dict[str, nn.Module]:
        """Return the pieces that no loss of this phase trains, by name; by default those after the last tap.

        What runs nevertheless, such as a frozen encoder, runs in eval mode and without gradients.
        """
        if self.reads_student_logits or not self.student_taps:
            return {}
        order = list(self.student.tap_shapes)
        return self.student.pieces_after(max(self.student_taps, key=order.index))


methods: Registry[type[Distiller]] = Registry("method", "kdctl.methods")
