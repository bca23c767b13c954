"""Methods as PyTorch modules, for a training loop of your own.

    from kdctl.modules import Distillation, LogitLoss, as_backbone

`LogitLoss` needs logits only: any model, any data. `Distillation` runs student and teachers itself and
also takes the methods that read features; `as_backbone` tells it where in your own model these are.

Same methods, same options and same checks as in a recipe. What only kdctl's own trainer does: several
students that share a teacher's forward pass, run keys, checkpoints of the method's state between steps,
kept teacher outputs, CUDA graphs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from kdctl.assembly.assemble import join, make_projector
from kdctl.assembly.catalog import full_catalog
from kdctl.engine.seeds import derive
from kdctl.errors import UsageError
from kdctl.layers.chain import as_backbone
from kdctl.protocols.backbone import POOLED, Backbone, Link, Outputs
from kdctl.protocols.distiller import Batch, Distiller, Losses, Step, methods
from kdctl.protocols.step import WHOLE_STEP
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.layers import NAME
from kdctl.recipe.stored import read_component
from kdctl.recipe.teacher_section import takes

__all__ = ["Distillation", "LogitLoss", "Losses", "as_backbone"]

_MAP = "stage1"


class LogitLoss(nn.Module):
    """A method that compares logits: `kd`, `dkd`, `dist` and their like.

    It has no parameters, so it may be a plain attribute of a training loop.
    """

    def __init__(self, method: str, *, num_classes: int, **options: Any) -> None:
        """Choose a method and its options.

        Args:
            method: name, as in a recipe; `kdctl show METHOD` explains its options.
            num_classes: width K of the logits.
            **options: as a recipe's `[method]` has them.

        Raises:
            UsageError: there is no such method, it reads more than logits or needs kdctl's own trainer, or an
                option is wrong.
        """
        super().__init__()
        logits_only = (_logits_only(num_classes), _logits_only(num_classes))
        distiller = build_method(method, options, *logits_only)
        _require_one_loss(distiller, method)
        if distiller.student_taps or any(distiller.teacher_taps) or not distiller.reads_student_logits:
            raise UsageError(
                f"method '{method}' reads more than logits.",
                "use kdctl.modules.Distillation, which runs student and teacher.",
            )
        self._method = (distiller,)  # in a tuple: no submodule, for its student is a stand-in

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        progress: Tensor | float = 0.0,
    ) -> Losses:
        """Return the terms; `.total()` is what to minimise.

        Args:
            student_logits: [B, K], before softmax.
            teacher_logits: [B, K], before softmax; no gradient flows into them.
            labels: [B], int64.
            progress: share of the training that is over, from 0 to 1; for methods that warm up.
        """
        batch = Batch(images=student_logits, labels=labels, index=torch.arange(len(labels)))
        step = Step(
            batch=batch,
            student=Outputs(logits=student_logits),
            teachers=(Outputs(logits=teacher_logits.detach()),),
            progress=_progress(progress, student_logits.device),
            learning_rate=_progress(0.0, student_logits.device),  # no method that reads logits alone reads it
        )
        return self._method[0].losses(step)


class Distillation(nn.Module):
    """A student, its frozen teachers, and the method between them.

    `parameters()` are those that are trained: of the student and of the method's own modules (projectors).
    The teachers follow `.to(device)`, but are neither trained nor saved in `state_dict()`.
    """

    def __init__(
        self,
        method: str,
        student: Backbone,
        *teachers: Backbone,
        num_samples: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """Join student and teachers by a method.

        Args:
            method: name, as in a recipe; `kdctl show METHOD` explains its options.
            student: trained.
            *teachers: in eval mode from here on.
            num_samples: size of the training set; for methods that remember samples (`crd`).
            seed: of the weights of projectors, and of what the method draws.
            **options: as a recipe's `[method]` has them.

        Raises:
            UsageError: there is no such method, an option is wrong, or it needs kdctl's own trainer.
            KdctlError: student, teachers and method do not fit together.
        """
        super().__init__()
        for teacher in teachers:
            teacher.eval().requires_grad_(False)
        self.method = build_method(method, options, student, *teachers, num_samples=num_samples, seed=seed)
        _require_one_loss(self.method, method)
        self._teachers = teachers
        self._seed, self._num_steps = seed, 0
        self._last: Step | None = None
        self.register_load_state_dict_pre_hook(_without_number_of_steps)

    def get_extra_state(self) -> Tensor:
        """Return the number of steps, by which is drawn what the method draws in the next one."""
        return torch.tensor(self._num_steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on after so many steps."""
        self._num_steps = int(state)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last step out of copies and files: tensors of a graph cannot be copied."""
        return {**self.__dict__, "_last": None}

    @property
    def student(self) -> nn.Module:
        """The student."""
        return self.method.student

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor | None = None,
        progress: Tensor | float = 0.0,
        learning_rate: Tensor | float = 0.0,
    ) -> Losses:
        """Run student and teachers and return the terms; `.total()` is what to minimise.

        Args:
            images: [B, 3, H, W], normalised.
            labels: [B], int64.
            index: [B], int64, which training samples these are; for methods that remember samples.
            progress: share of the training that is over, from 0 to 1; for methods that warm up.
            learning_rate: of this step; for methods that scale a term by it.

        Raises:
            UsageError: samples are remembered, as `num_samples` says, and nothing says which these are.
        """
        if index is None and self.method.setup.num_samples > 1:
            raise UsageError(
                f"num_samples = {self.method.setup.num_samples:,} is for methods that remember samples, and "
                "nothing says which samples these are.",
                "pass index=..., their places in the training set; or leave num_samples out.",
            )
        self._move_random_numbers(images.device)
        self.method.setup.rng.manual_seed(derive(self._seed, "method", self._num_steps))
        self._num_steps += 1
        places = torch.arange(len(labels), device=labels.device) if index is None else index
        with torch.no_grad():
            answers = tuple(
                teacher.observe(images, taps, with_logits=self.method.reads_teacher_logits)
                for teacher, taps in zip(self._teachers, self.method.teacher_taps, strict=True)
            )
        student = self.method.student.observe(
            images, self.method.student_taps, with_logits=self.method.reads_student_logits
        )
        self._last = Step(
            batch=Batch(images=images, labels=labels, index=places),
            student=student,
            teachers=answers,
            progress=_progress(progress, images.device),
            learning_rate=_progress(learning_rate, images.device),
        )
        return self.method.losses(self._last)

    def after_update(self) -> None:
        """Let the method do what follows the optimizer's step; only some need it (`crd`)."""
        if self._last is not None:
            self.method.after_update(self._last)
            self._last = None

    def inference_model(self) -> nn.Module:
        """Return what is shipped: images [B, 3, H, W] -> logits [B, K]."""
        return self.method.inference_model()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the teachers, which stay in eval mode."""
        super().train(mode)
        for teacher in self._teachers:
            teacher.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the teachers along, as torch moves submodules."""
        for teacher in self._teachers:
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _move_random_numbers(self, device: torch.device) -> None:
        if self.method.setup.rng.device != device:
            self.method.setup = dataclasses.replace(self.method.setup, rng=torch.Generator(device))


def _require_backbones(student: object, *teachers: object) -> None:
    """Refuse models of which nobody said where their features are.

    Raises:
        UsageError: one is no `Backbone`.
    """
    for place, model in enumerate((student, *teachers)):
        if not isinstance(model, Backbone):
            raise UsageError(
                f"{'a teacher' if place else 'the student'} is a {type(model).__name__}, which does not say "
                "where its features are.",
                "wrap it: as_backbone({'stem': ..., 'stage1': ...}, classifier, input_size=32); for logits "
                "of any model there is LogitLoss.",
            )


def build_method(
    method: str,
    options: Mapping[str, Any],
    student: Backbone,
    *teachers: Backbone,
    num_samples: int = 1,
    seed: int = 0,
    student_name: str = "",
) -> Distiller:
    """Build a method around a student and its teachers, ready for its last phase.

    `student_name` is that of the student's model, for methods that draw parts of it again (`one`).

    Raises:
        UsageError: there is no such method, an option is wrong, or it takes another number of teachers.
        KdctlError: student, teachers and method do not fit together.
    """
    spec = read_component("method", {NAME: method, **options}, full_catalog(), "kdctl.modules")
    _require_backbones(student, *teachers)
    if not takes(methods.get(spec.name).item.num_teachers, len(teachers)):
        raise UsageError(
            f"method '{spec.name}' does not take {len(teachers)} teachers.",
            f"kdctl show {spec.name} says how many.",
        )
    return join(
        spec, student, teachers,
        seed=seed, student_name=student_name, num_samples=num_samples, rng=torch.Generator("cpu"),
        projector=make_projector,
    )  # fmt: skip


def _require_one_loss(distiller: Distiller, method: str) -> None:
    """Raise UsageError unless a method is one loss of images from elsewhere, the same in each step."""
    why, hint = "", "train with kdctl."
    if isinstance(distiller.config, GeneratedImages):
        why = "makes the images that it learns from, and takes none from elsewhere"
    elif len(distiller.phases()) > 1:
        why = "has several phases, which take a trainer that begins each"
        hint = "train with kdctl, or choose options of a single phase."
    elif distiller.updates() != (WHOLE_STEP,) or any(group.optimizer for group in distiller.optimized()):
        why = "takes several updates or optimizers in a step; one loss cannot say that"
    if why:
        raise UsageError(f"method '{method}' {why}.", hint)


def _logits_only(num_classes: int) -> Backbone:
    """Return a stand-in for a model of which only logits are known."""
    links = [
        Link(name=_MAP, module=nn.Identity(), shape=(1, 1, 1)),
        Link(name=POOLED, module=nn.Flatten(), shape=(1,)),
    ]
    return Backbone(links, classifier=nn.Linear(1, num_classes), stage_taps=(_MAP,), input_size=1)


def _without_number_of_steps(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a state that an earlier version saved be loaded: it does not say how many steps there were."""
    state.setdefault(f"{prefix}_extra_state", torch.tensor(0))


def _progress(progress: Tensor | float, device: torch.device) -> Tensor:
    return torch.as_tensor(progress, dtype=torch.float32, device=device)
