"""Vanilla knowledge distillation: match the teacher's softened predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from kdctl.losses.soft_targets import soft_target_kl, standardised
from kdctl.losses.supervision import task_term
from kdctl.protocols.distiller import Distiller, Losses, Step, methods
from kdctl.recipe.component import option, tunable


@dataclass(frozen=True, kw_only=True)
class KdConfig:
    """Weights and temperature; the two forms papers write are both a choice of weights.

    Protocol `simkd`: 1 * CE + 1 * KL. Protocol `crd`: 0.1 * CE + 0.9 * KL. The form
    a * T^2 * KL + (1 - a) * CE is kd_weight = a, ce_weight = 1 - a.
    """

    temperature: Annotated[float, Gt(0)] = tunable(4.0, 1.0, 20.0, log=True)
    """T: what logits are divided by before the softmax. 4 in the papers of both protocols."""
    kd_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 10.0, log=True)
    """Of T^2 * KL(teacher || student)."""
    ce_weight: Annotated[float, Ge(0)] = tunable(1.0, 0.0, 1.0)
    """Of the cross-entropy with the labels; 0 leaves it out."""
    standardise: bool = option(False, since="0.2.0")
    """Put the logits of both sides on one scale before the divergence (arXiv:2403.01427). Its authors
    then have a weight of 9 at T = 2 for most pairs, beside 0.1 * CE."""


@methods.register("kd", label="KD")
class KnowledgeDistillation(Distiller):
    """Cross-entropy plus the divergence of softened predictions.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", NeurIPS 2014 workshop,
    arXiv:1503.02531, part 2:  L = ce_weight * CE(z_s, y) + kd_weight * T^2 * KL(p_t || p_s).

    The divergence is summed over classes and averaged over the batch. Public code that averages over
    classes too makes it K times smaller; code that drops T^2 makes the weight depend on T. With
    `standardise` the divergence is that of logits less their mean, divided by their deviation (Sun et al.,
    "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv:2403.01427).
    """

    Config: ClassVar[type] = KdConfig
    config: KdConfig

    def losses(self, step: Step) -> Losses:
        """Return the weighted cross-entropy and divergence."""
        logits = step.student.require_logits()
        teacher_logits = step.teachers[0].require_logits()
        sides = (logits, teacher_logits)
        if self.config.standardise:
            sides = (standardised(logits), standardised(teacher_logits))
        kl = soft_target_kl(*sides, self.config.temperature)
        return Losses(
            task=task_term(self.config, step), transfer={"kd": self.config.kd_weight * kl}, logits=logits
        )
