"""MLLD: match predictions sample by sample, class by class, and as the batch holds them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from kdctl.losses.soft_targets import standardised
from kdctl.losses.supervision import task_term
from kdctl.losses.vectors import dot_products
from kdctl.protocols.distiller import Distiller, Losses, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class MultiLevelLogitConfig:
    """Weights of the levels, and at which temperatures they are taken."""

    instance_weight: Annotated[float, Ge(0)] = tunable(0.9, 0.0, 10.0)
    """Of the divergences; 0 leaves them out. 0.9 in the authors' code, as for the other two levels."""
    batch_weight: Annotated[float, Ge(0)] = tunable(0.9, 0.0, 10.0)
    """Of the distances of similarities between samples; 0 leaves them out."""
    class_weight: Annotated[float, Ge(0)] = tunable(0.9, 0.0, 10.0)
    """Of the distances of similarities between classes; 0 leaves them out."""
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
    """T of each level; the terms of all are summed, as in the authors' code."""
    low_confidence: bool = False
    """Learn from the half of samples, and of classes, of which the teacher is least sure."""
    standardise: bool = False
    """Put the logits of both sides on one scale before the divergences (arXiv:2403.01427)."""
    ce_weight: Annotated[float, Ge(0)] = tunable(0.1, 0.0, 1.0)
    """Of the cross-entropy with the labels; 0 leaves it out. 0.1 in the authors' code."""

    def __post_init__(self) -> None:
        """Refuse options with which nothing is distilled."""
        if self.instance_weight == self.batch_weight == self.class_weight == 0:
            raise ValueError(
                "instance_weight = 0, batch_weight = 0 and class_weight = 0 leave nothing to distil"
            )
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures = {list(self.temperatures)}: name some, all above 0")


@methods.register("mlld", label="MLLD", aliases=("mlkd",))
class MultiLevelLogitDistillation(Distiller):
    """Cross-entropy plus distances of predictions on three levels, at several temperatures.

    Jin, Wang and Lin, "Multi-Level Logit Distillation", CVPR 2023, with P = softmax(z / T), [B, K]:
    L = ce_weight * CE(z_s, y) + sum_T [ instance_weight * T^2 * KL(P_t || P_s)
      + batch_weight * 1/B * || P_s P_s^T - P_t P_t^T ||_F^2
      + class_weight * 1/K * || P_s^T P_s - P_t^T P_t ||_F^2 ].

    The authors feed each image twice, weakly and strongly augmented, and mix what the two give. kdctl's
    steps have one view, so this is the method's loss on one view: numbers published for two of them, and
    for 240 to 960 epochs at a rate of 0.025, do not belong beside it.

    Their code departs from the paper in three ways that are not repeated here: the masks that should pick
    the samples (and classes) of which the teacher is least sure multiply a scalar, so that they halve the
    term; two temperatures of the strong view read the weak one's logits; class and batch terms of the
    strong view are not used. `low_confidence` is the selection as it was meant.
    """

    Config: ClassVar[type] = MultiLevelLogitConfig
    config: MultiLevelLogitConfig

    def losses(self, step: Step) -> Losses:
        """Return the weighted cross-entropy and the terms of all levels."""
        config, logits = self.config, step.student.require_logits()
        teacher = step.teachers[0].require_logits()
        levels = {
            "instance": (config.instance_weight, self._instances),
            "batch": (config.batch_weight, self._samples),
            "class": (config.class_weight, self._classes),
        }
        return Losses(
            task=task_term(self.config, step),
            transfer={
                name: weight * torch.stack([level(logits, teacher, t) for t in config.temperatures]).sum()
                for name, (weight, level) in levels.items()
                if weight > 0
            },
            logits=logits,
        )

    def _instances(self, logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return T^2 * the divergence, mean over the samples that count."""
        if self.config.standardise:
            logits, teacher = standardised(logits), standardised(teacher)
        own = functional.log_softmax(logits.float() / temperature, dim=1)
        other = functional.log_softmax(teacher.float() / temperature, dim=1)
        divergences = functional.kl_div(own, other, reduction="none", log_target=True).sum(dim=1)
        return _mean(divergences, self._unsure(teacher.float().softmax(dim=1).amax(dim=1))) * temperature**2

    def _samples(self, logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the squared distance of similarities between samples, mean over those that count."""
        own, other = _probabilities(logits, temperature), _probabilities(teacher, temperature)
        gaps = (dot_products(own, own) - dot_products(other, other)).square().sum(dim=1)
        return _mean(gaps, self._unsure(teacher.float().softmax(dim=1).amax(dim=1)))

    def _classes(self, logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the squared distance of similarities between classes, mean over those that count."""
        own, other = _probabilities(logits, temperature).mT, _probabilities(teacher, temperature).mT
        gaps = (dot_products(own, own) - dot_products(other, other)).square().sum(dim=1)
        return _mean(gaps, self._unsure(teacher.float().softmax(dim=1).sum(dim=0)))

    def _unsure(self, confidence: Tensor) -> Tensor | None:
        """Return which of [N] are not above the median, bool; None: all count."""
        if not self.config.low_confidence:
            return None
        return confidence <= confidence.sort().values[(len(confidence) - 1) // 2]


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / T) of logits [B, K], fp32."""
    return functional.softmax(logits.float() / temperature, dim=1)


def _mean(values: Tensor, kept: Tensor | None) -> Tensor:
    """Return the mean of [N] over those that are kept; None: over all."""
    return values.mean() if kept is None else torch.where(kept, values, 0.0).sum() / kept.sum()
