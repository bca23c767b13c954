"""Optimizers and learning-rate schedules as data; the engine turns them into torch objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

from annotated_types import Ge, Gt, Le, Lt

from kdctl.recipe.component import option, tunable
from kdctl.registry import Registry

MOST_EPOCHS = 1_000_000
"""Years of training even for the smallest models."""

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]


class Schedule(Protocol):
    """How the learning rate moves over a run."""

    @property
    def epochs(self) -> int:
        """Length of the run."""
        ...

    @property
    def comparable_from(self) -> int:
        """The first epoch, counted from 1, whose accuracy tells which of several runs will do better.

        Earlier, where rates are high, curves of runs still cross.
        """
        ...

    def factor(self, position: float) -> float:
        """Return what the learning rate is multiplied by, `position` epochs after the start."""
        ...


optimizers: Registry[type] = Registry("optimizer", __name__)
schedules: Registry[type] = Registry("schedule", __name__)


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """What every optimizer can be told."""

    decay_norms_and_biases: bool = option(True, since="0.2.0")
    """Whether weight decay also shrinks vectors (norms, biases) and what a transformer adds to its tokens
    (positions, class token); recipes of transformers say no."""
    max_gradient_norm: NonNegative = option(0.0, since="0.2.0")
    """Gradients whose norm over all parameters of this optimizer is larger are scaled to it; 0: never."""


@dataclass(frozen=True, kw_only=True)
class Sgd(OptimizerOptions):
    """Stochastic gradient descent with momentum, as distillation papers use it."""

    learning_rate: Positive = tunable(0.05, 0.001, 0.5, log=True)
    """Before the schedule."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Share of the last update that goes on."""
    weight_decay: NonNegative = tunable(5e-4, 1e-5, 1e-2, log=True)
    """L2 penalty on all trained parameters, batch norm and biases included (as in the public code)."""
    nesterov: bool = False
    """Nesterov's form of momentum; the SimKD paper says so, its code does not do it."""


@dataclass(frozen=True, kw_only=True)
class Dot(OptimizerOptions):
    """SGD with two momenta, of the loss against labels and of what a teacher adds (arXiv:2307.08436).

    Goes with any method that has both; a parameter that sees one of them alone is trained as by SGD, and so
    is a teacher. Needs two backward passes. It changes how much the losses count: with momentum = 0.9 and
    delta = 0.075 a constant gradient of the distillation moves weights 40 times as far as without momentum,
    one of the labels 5.7 times; by SGD both 10 times. So compare it with other weights of the losses, too.
    """

    learning_rate: Positive = tunable(0.05, 0.001, 0.5, log=True)
    """Before the schedule."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Share of the last update that goes on: `delta` is added to it for the distillation, taken off for the
    labels."""
    delta: Annotated[float, Ge(0), Lt(1)] = tunable(0.075, 0.0, 0.095)
    """How far both momenta are from `momentum`. 0.075 in the authors' settings, 0.09 on ImageNet."""
    weight_decay: NonNegative = tunable(5e-4, 1e-5, 1e-2, log=True)
    """L2 penalty on all trained parameters, once, beside the loss against labels."""

    def __post_init__(self) -> None:
        """Refuse momenta outside of [0, 1)."""
        if not 0 <= self.momentum - self.delta <= self.momentum + self.delta < 1:
            raise ValueError(
                f"momentum = {self.momentum} and delta = {self.delta}: momentum - delta and momentum + delta "
                "should be at least 0 and less than 1"
            )


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerOptions):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    learning_rate: Positive = tunable(1e-3, 1e-5, 1e-2, log=True)
    """Before the schedule."""
    weight_decay: NonNegative = tunable(0.05, 1e-4, 0.5, log=True)
    """Decoupled decay of all trained parameters."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the running mean of gradients."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the running mean of squared gradients."""


@dataclass(frozen=True, kw_only=True)
class Lamb(OptimizerOptions):
    """LAMB (arXiv:1904.00962), for very large batches, as timm has it: needs `pip install 'kdctl[timm]'`."""

    learning_rate: Positive = tunable(5e-3, 1e-4, 1e-1, log=True)
    """Before the schedule."""
    weight_decay: NonNegative = tunable(0.02, 1e-4, 0.5, log=True)
    """Added to the update before the trust ratio; a layer without it has no trust ratio either."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the running mean of gradients."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the running mean of squared gradients."""


@dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """Multiplies the learning rate by `gamma` at each milestone."""

    epochs: Annotated[int, Gt(0), Le(MOST_EPOCHS)] = 240
    """Length of the run."""
    milestones: tuple[Annotated[int, Gt(0), Le(MOST_EPOCHS)], ...] = (150, 180, 210)
    """Epochs after which the rate drops: 150 means that epoch 151, counted from 1, is the first lower one."""
    gamma: Annotated[float, Gt(0), Le(1)] = 0.1
    """What each drop multiplies by."""
    warmup_epochs: Annotated[int, Ge(0), Le(MOST_EPOCHS)] = 0
    """Linear increase from (almost) zero over so many epochs."""

    @property
    def comparable_from(self) -> int:
        """The epoch after the first drop of the rate; without one, that after the warm-up."""
        drops = [milestone for milestone in self.milestones if milestone < self.epochs and self.gamma < 1]
        return max(min(drops, default=0), self.warmup_epochs) + 1

    def factor(self, position: float) -> float:
        """Return the factor `position` epochs after the start."""
        drops = sum(position >= milestone for milestone in self.milestones)
        return warmup(position, self.warmup_epochs) * self.gamma**drops


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """Half a cosine from the full learning rate to `final_factor` of it (arXiv:1608.03983)."""

    epochs: Annotated[int, Gt(0), Le(MOST_EPOCHS)] = 240
    """Length of the run."""
    final_factor: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the learning rate that is left at the end."""
    warmup_epochs: Annotated[int, Ge(0), Le(MOST_EPOCHS)] = 0
    """Linear increase from (almost) zero over so many epochs."""

    @property
    def comparable_from(self) -> int:
        """Half of the epochs."""
        return max(math.ceil(self.epochs / 2), self.warmup_epochs + 1)

    def factor(self, position: float) -> float:
        """Return the factor `position` epochs after the start."""
        share = min(position / self.epochs, 1.0)
        cosine = 0.5 * (1.0 + math.cos(math.pi * share))
        return warmup(position, self.warmup_epochs) * (self.final_factor + (1 - self.final_factor) * cosine)


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule:
    """Keeps the learning rate."""

    epochs: Annotated[int, Gt(0), Le(MOST_EPOCHS)] = 240
    """Length of the run."""
    warmup_epochs: Annotated[int, Ge(0), Le(MOST_EPOCHS)] = 0
    """Linear increase from (almost) zero over so many epochs."""

    @property
    def comparable_from(self) -> int:
        """The epoch after the warm-up."""
        return self.warmup_epochs + 1

    def factor(self, position: float) -> float:
        """Return the factor `position` epochs after the start."""
        return warmup(position, self.warmup_epochs)


def warmup(position: float, warmup_epochs: int) -> float:
    """Return the linear warm-up factor; 1 once `warmup_epochs` are over, never quite 0 before."""
    if position >= warmup_epochs:
        return 1.0
    return max(position / warmup_epochs, 1e-3)


optimizers.register("sgd", config=Sgd, label="SGD")(Sgd)
optimizers.register("dot", config=Dot, label="DOT")(Dot)
optimizers.register("adamw", config=AdamW, label="AdamW")(AdamW)
optimizers.register("lamb", config=Lamb, label="LAMB")(Lamb)
schedules.register("step", config=StepSchedule)(StepSchedule)
schedules.register("cosine", config=CosineSchedule)(CosineSchedule)
schedules.register("constant", config=ConstantSchedule)(ConstantSchedule)
