"""AEKD-F: weigh the hints of several teachers so that their gradients agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from kdctl.losses.hinted_stage import HintedByTeachers
from kdctl.losses.several_teachers import (
    FEW,
    GradientAgreement,
    agreeing_weights,
    divergences,
    each_weight,
    logit_gradients,
    weights_of_directions,
)
from kdctl.losses.supervision import task_term
from kdctl.protocols.distiller import Losses, Setup, Step, methods
from kdctl.recipe.component import Spec, component, tunable


@dataclass(frozen=True, kw_only=True)
class AdaptiveHintsConfig(GradientAgreement):
    """Which stage, through which connectors, with which weight."""

    hint_weight: Annotated[float, Gt(0)] = tunable(100.0, 1.0, 1000.0, log=True)
    """Of the weighed hints. 100 in the authors' code."""
    stage: Annotated[int, Ge(1)] = 2
    """Which of the student's stages, from 1. 2 in the authors' code."""
    projector: Spec = component("projector", "pointwise")
    """The connectors, one for each teacher; not shipped."""


@methods.register("aekd_f", label="AEKD-F")
class AdaptiveHints(HintedByTeachers):
    """Cross-entropy plus divergences and hints of several teachers, weighed in the space of gradients.

    Du et al., "Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space", NeurIPS 2020:
    L = ce_weight * CE + kd_weight * sum_k a_k * T^2 * KL(p_k || p_s)
      + hint_weight * sum_k b_k * mean( (f_k - R_k(f_s))^2 ),
    a as in `aekd`, b the weights of the shortest mean of the hints' gradients with respect to the student's
    map f_s, mean over the batch. As in the authors' code the gradients of hints are divided by their
    lengths first, and the weights after; those of predictions are not.

    Gradients of hints go back through the connectors alone. The authors' hints begin in the second epoch.
    """

    Config: ClassVar[type] = AdaptiveHintsConfig
    num_teachers: ClassVar[tuple[int, int | None]] = FEW
    config: AdaptiveHintsConfig

    def __init__(self, config: AdaptiveHintsConfig, setup: Setup) -> None:
        """Find weights for as many teachers."""
        super().__init__(config, setup)
        self.find_weights = agreeing_weights(len(setup.teachers), config.max_weight)

    def losses(self, step: Step) -> Losses:
        """Return the weighed divergences and hints beside the cross-entropy."""
        each = divergences(step, self.config.temperature).mean(dim=1)
        weights = self.find_weights(logit_gradients(step, self.config.temperature))
        hints = self.hint_distances(step)
        hint_weights = self._hint_weights(hints, step.student.taps[self.stage])
        hint = (hint_weights * torch.stack(hints)).sum()
        return Losses(
            task=task_term(self.config, step),
            transfer={
                "kd": self.config.kd_weight * (weights * each).sum(),
                "hint": self.config.hint_weight * hint,
            },
            logits=step.student.require_logits(),
            metrics=each_weight(hint_weights),
        )

    def _hint_weights(self, hints: list[Tensor], features: Tensor) -> Tensor:
        """Return the weights [T] of the hints, by their gradients with respect to the student's map."""
        gradients = [torch.autograd.grad(hint, features, retain_graph=True)[0] for hint in hints]
        vectors = torch.stack([gradient.float().mean(dim=0).flatten() for gradient in gradients])
        return weights_of_directions(self.find_weights, vectors)
