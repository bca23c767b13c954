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
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from kdctl.assembly.without_recipe import build_method, logits_only, require_one_loss
from kdctl.engine.seeds import derive
from kdctl.errors import UsageError
from kdctl.layers.chain import as_backbone
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Batch, Losses, Step

__all__ = ["Distillation", "LogitLoss", "Losses", "as_backbone"]


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
        student, teacher = logits_only(num_classes), logits_only(num_classes)
        distiller = build_method(method, options, student, teacher)
        require_one_loss(distiller, method)
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
        require_one_loss(self.method, method)
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


def _without_number_of_steps(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a state that an earlier version saved be loaded: it does not say how many steps there were."""
    state.setdefault(f"{prefix}_extra_state", torch.tensor(0))


def _progress(progress: Tensor | float, device: torch.device) -> Tensor:
    return torch.as_tensor(progress, dtype=torch.float32, device=device)
