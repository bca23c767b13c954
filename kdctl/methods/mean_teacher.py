"""Mean teacher: the student learns from the moving average of its own weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from kdctl.layers.moving_average import MovingAverage
from kdctl.losses.soft_targets import soft_target_kl
from kdctl.losses.supervision import label_loss
from kdctl.losses.warmup import sigmoid_rampup
from kdctl.protocols.distiller import Distiller, Losses, NamedModel, Setup, Step, methods
from kdctl.recipe.component import option, tunable


@dataclass(frozen=True, kw_only=True)
class MeanTeacherConfig:
    """How slowly the average follows, and how much its predictions count."""

    decay: Annotated[float, Ge(0), Lt(1)] = tunable(0.999, 0.9, 0.9999)
    """What the average keeps of itself in each step, at most 1 - 1 / (step + 1). 0.97 to 0.999 in the
    authors' code."""
    distance: Literal["kl", "mse"] = "kl"
    """'kl': T^2 * KL(average || student). 'mse': the mean square of the difference of probabilities, over
    batch and classes: the paper's default, for which the authors' weight is 100."""
    temperature: Annotated[float, Gt(0)] = tunable(1.0, 1.0, 20.0, log=True)
    """T of 'kl': what logits are divided by before the softmax."""
    kd_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 100.0, log=True)
    """Of the distance, when it has grown to its full weight."""
    warmup_share: Annotated[float, Ge(0), Le(1)] = 0.2
    """Of the training over which the weight grows, as exp(-5 (1 - x)^2) for x from 0 to 1. The authors' code:
    5 to 80 epochs."""
    ships: Literal["average", "student"] = "average"
    """Which model is evaluated as the run's and shipped; the other one is a model of the run."""
    batch_statistics: bool = option(True, since="0.3.0", before=False)
    """The average normalises by the batch while it teaches, and its running statistics are its own, as in
    the authors' code. False: it has the student's running statistics, which do not fit averaged weights."""


@methods.register("mean_teacher", label="Mean teacher", aliases=("ema_self_distillation",))
class MeanTeacher(Distiller):
    """Trains the student by the labels and by the moving average of its own weights; no other teacher.

    Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv:1703.01780, part 2:
    L = CE(z, y) + kd_weight * r * d(p_average, p_student), with the average's weights
    w' = a * w' + (1 - a) * w after each step, and r growing over the first part of the training.

    The paper's task has few labels, two views of each image and noise in both models; here all images have
    labels, and both models see one view. The paper's distance is `mse`.
    """

    Config: ClassVar[type] = MeanTeacherConfig
    num_teachers: ClassVar[tuple[int, int | None]] = (0, 0)
    config: MeanTeacherConfig
    mean: MovingAverage

    def __init__(self, config: Any, setup: Setup) -> None:
        """Start the average at the student's first weights."""
        super().__init__(config, setup)
        statistics = "own" if self.config.batch_statistics else "copied"
        self.mean = MovingAverage(setup.student, self.config.decay, statistics=statistics)

    @classmethod
    def ships_student(cls, config: MeanTeacherConfig) -> bool:
        """The average has the student's form, and other weights."""
        return config.ships == "student"

    def averaged_modules(self) -> dict[str, nn.Module]:
        """Return the average."""
        return {"mean": self.mean}

    def eval_modules(self) -> Iterable[nn.Module]:
        """Return nothing where the average normalises by the batch."""
        return () if self.config.batch_statistics else super().eval_modules()

    def models(self) -> tuple[NamedModel, ...]:
        """Return the one of the two that is not shipped."""
        if self.config.ships == "student":
            return (NamedModel(name="average", module=self.mean.model),)
        return (NamedModel(name="student", module=self.student),)

    def losses(self, step: Step) -> Losses:
        """Return the cross-entropy and the distance from the average's predictions."""
        logits = step.student.require_logits()
        with torch.no_grad():
            target: Tensor = self.mean.model(step.batch.images)
        distance = self._distance(logits, target) * sigmoid_rampup(step.progress, self.config.warmup_share)
        return Losses(
            task=label_loss(logits, step.batch),
            transfer={"average": self.config.kd_weight * distance},
            logits=logits,
        )

    def _distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return how far predictions [B, K] are from the average's, 0-dim."""
        if self.config.distance == "kl":
            return soft_target_kl(logits, target, self.config.temperature)
        return (logits.float().softmax(dim=1) - target.float().softmax(dim=1)).square().mean()

    def after_update(self, step: Step) -> None:
        """Let the average follow the student."""
        self.mean.update(self.student)

    def inference_model(self) -> nn.Module:
        """Return the average, or the student."""
        return self.student if self.config.ships == "student" else self.mean.model
