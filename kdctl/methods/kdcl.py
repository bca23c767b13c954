"""KDCL: models that teach each other through one target, made of what all of them predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional

from kdctl.losses.peers import LearnsWithPeers, PeerOptions
from kdctl.losses.soft_targets import soft_target_kl
from kdctl.protocols.distiller import Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class CollaborativeLearningConfig(PeerOptions):
    """How the target is made."""

    temperature: Annotated[float, Gt(0)] = tunable(4.0, 1.0, 20.0, log=True)
    """T: what logits are divided by before the softmax. 4 in public code, none of which is the authors'."""
    target: Literal["min_logit", "naive", "mean"] = "min_logit"
    """'min_logit': for each class the smallest distance to the logit of the true one. 'naive': the logits
    of the model with the lowest loss against the labels on the batch. 'mean': the mean of the logits, which
    is what public code has."""


@methods.register("kdcl", label="KDCL")
class CollaborativeLearning(LearnsWithPeers):
    """Trains the student beside peers, all by the labels and by one target made of all predictions.

    Guo et al., "Online Knowledge Distillation via Collaborative Learning", CVPR 2020, part 3: with K models,
    L_k = CE(z_k, y) + kd_weight * T^2 * KL( softmax(z / T) || softmax(z_k / T) ), z without gradient, and by
    `target`  min_logit: z_c = min_k (z_kc - z_ky);  naive: z = z_k of the lowest CE;  mean: z = mean z_k.

    The paper distorts the images of each model by itself; here all see the same ones. Its convex
    combination needs an optimisation in each step, its "general" target errors on images that are held out:
    both are not offered. The first model is the student, and is shipped.
    """

    Config: ClassVar[type] = CollaborativeLearningConfig
    config: CollaborativeLearningConfig

    def lesson(self, logits: Sequence[Tensor], place: int, step: Step) -> Tensor:
        """Return the divergence from the common target, 0-dim."""
        stacked = torch.stack([each.detach().float() for each in logits])
        return soft_target_kl(logits[place], self._target(stacked, step), self.config.temperature)

    def _target(self, logits: Tensor, step: Step) -> Tensor:
        """Return the logits [B, K] that all learn from, for those of all models [N, B, K]."""
        if self.config.target == "mean":
            return logits.mean(dim=0)
        labels = step.batch.hard_labels()
        if self.config.target == "min_logit":
            places = labels.expand(len(logits), -1).unsqueeze(dim=2)
            return (logits - logits.gather(dim=2, index=places)).amin(dim=0)
        losses = torch.stack([functional.cross_entropy(each, labels) for each in logits])
        return logits.index_select(0, losses.argmin().reshape(1)).squeeze(0)
