"""DIST: match how predictions are correlated, within samples and within classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from kdctl.losses.supervision import task_term
from kdctl.losses.vectors import lengths
from kdctl.protocols.distiller import Distiller, Losses, Step, methods
from kdctl.recipe.component import tunable

_FAINT = 1e-8
"""Added to the product of two deviations: where a class is hardly ever predicted, its correlation goes to 0.

Part of the published loss, not only a guard: with many classes and a teacher that is sure, most
columns of the softmax are that faint.
"""

_ROUNDING = 1e-6
"""Deviations that are smaller, relative to the row, are errors of fp32."""


@dataclass(frozen=True, kw_only=True)
class CorrelationConfig:
    """Weights and temperature: those of the authors' recipe for CIFAR-100."""

    beta: Annotated[float, Ge(0)] = tunable(2.0, 0.1, 10.0, log=True)
    """Of the relation between classes, sample by sample; 0 leaves it out. 2 in the authors' recipes."""
    gamma: Annotated[float, Ge(0)] = tunable(2.0, 0.1, 10.0, log=True)
    """Of the relation within classes, over the batch; 0 leaves it out. 2 in the authors' recipes."""
    temperature: Annotated[float, Gt(0)] = tunable(4.0, 1.0, 20.0, log=True)
    """T: what logits are divided by before the softmax. 4 for CIFAR-100, 1 for ImageNet."""
    ce_weight: Annotated[float, Ge(0)] = tunable(1.0, 0.0, 1.0)
    """Of the cross-entropy with the labels; 0 leaves it out. 1 in the authors' recipes."""

    def __post_init__(self) -> None:
        """Refuse weights with which nothing is distilled."""
        if self.beta == self.gamma == 0:
            raise ValueError("beta = 0 and gamma = 0 leave nothing to distil")


def correlation_distance(left: Tensor, right: Tensor) -> Tensor:
    """Return 1 - Pearson's correlation of each row of [N, M] with that of the other, mean over rows.

    A row that is constant but for rounding counts as uncorrelated, and gets no gradient: it would be
    a hundred million times the other row. Computed in fp32.
    """
    left, right = _deviations(left.float()), _deviations(right.float())
    correlations = (left * right).sum(dim=1) / (lengths(left) * lengths(right) + _FAINT)
    return 1.0 - correlations.mean()


def _deviations(rows: Tensor) -> Tensor:
    """Return rows [N, M] less their means; zeros for those that are constant but for rounding."""
    deviations = rows - rows.mean(dim=1, keepdim=True)
    varies = lengths(deviations) > _ROUNDING * lengths(rows)
    return torch.where(varies[:, None], deviations, 0.0)


@methods.register("dist", label="DIST")
class StrongerTeacher(Distiller):
    """Cross-entropy plus the distances of correlations between and within classes.

    Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv:2205.10536,
    section 3:
    L = ce_weight * CE(z_s, y) + T^2 * ( beta * d(P_s, P_t) + gamma * d(P_s^T, P_t^T) ),
    where P = softmax(z / T) is [B, K] and d = 1 - Pearson's correlation, mean over rows.

    The factor T^2 is in the authors' code, not in the paper's (github.com/hunto/image_classification_sota,
    issue 19); their results for CIFAR-100 are with it, and T = 4. Their code weighs both distances 1
    and their sum 2: that is our 2 and 2. The second distance compares samples of one batch, so a last,
    shorter batch gives a noisier one.
    """

    Config: ClassVar[type] = CorrelationConfig
    config: CorrelationConfig

    def losses(self, step: Step) -> Losses:
        """Return the weighted cross-entropy and both distances."""
        config, square = self.config, self.config.temperature**2
        logits, teacher_logits = step.student.require_logits(), step.teachers[0].require_logits()
        student = (logits.float() / config.temperature).softmax(dim=1)
        teacher = (teacher_logits.float() / config.temperature).softmax(dim=1)
        transfer = dict[str, Tensor]()
        if config.beta > 0:
            transfer["inter"] = config.beta * square * correlation_distance(student, teacher)
        if config.gamma > 0:
            transfer["intra"] = config.gamma * square * correlation_distance(student.T, teacher.T)
        return Losses(task=task_term(self.config, step), transfer=transfer, logits=logits)
