"""ONE: branches of the student that learn from their own ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.losses.soft_targets import soft_target_kl
from kdctl.losses.supervision import label_loss
from kdctl.losses.warmup import sigmoid_rampup
from kdctl.protocols.distiller import Distiller, Losses, NamedModel, Setup, Step, methods
from kdctl.recipe.component import tunable

ENSEMBLE = "ensemble"
"""Name of the model that all branches are together."""


@dataclass(frozen=True, kw_only=True)
class NativeEnsembleConfig:
    """How many branches there are, and how much they learn from their ensemble."""

    num_branches: Annotated[int, Ge(2), Le(64)] = 3
    """Of the last stage and the classifier, the student's own included. 3 in the paper."""
    temperature: Annotated[float, Gt(0)] = tunable(3.0, 1.0, 20.0, log=True)
    """T: what logits are divided by before the softmax. 3 in the paper."""
    kd_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 10.0, log=True)
    """Of the divergences from the ensemble, when they have grown to their full weight."""
    warmup_share: Annotated[float, Ge(0), Le(1)] = 0.27
    """Of the training over which that weight grows, as exp(-5 (1 - x)^2) for x from 0 to 1. The authors'
    code: 80 of 300 epochs."""


@methods.register("one", label="ONE")
class NativeEnsemble(Distiller):
    """Trains branches of the student, each by the labels and by the ensemble of all; no other teacher.

    Lan, Zhu and Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", NeurIPS 2018,
    arXiv:1806.04606, eq. 3 to 8, with branches i that share all but the last stage and the classifier:
    L = sum_i CE(z_i, y) + CE(z_e, y)
      + kd_weight * r * sum_i T^2 * KL( softmax(z_e / T) || softmax(z_i / T) ),
    z_e = sum_i g_i z_i, without gradient in the divergence, and r growing over the first part of training.
    The gate g is the softmax of a linear layer, batch norm and ReLU on the mean of the map that all share.

    The first branch is the student, which is shipped; the other last stages are drawn anew, as are the
    authors'. All branches with the gate are the model `ensemble` of the run.
    """

    Config: ClassVar[type] = NativeEnsembleConfig
    num_teachers: ClassVar[tuple[int, int | None]] = (0, 0)
    config: NativeEnsembleConfig
    branches: nn.ModuleList
    gate: nn.Sequential

    def __init__(self, config: NativeEnsembleConfig, setup: Setup) -> None:
        """Draw the other branches, and the gate.

        Raises:
            KdctlError: the student has only one stage, or no name by which another one is drawn.
        """
        super().__init__(config, setup)
        student = setup.student
        if len(student.stage_taps) == 1:
            raise KdctlError(
                "the student has only one stage: branches of its last stage would share nothing.",
                "choose a student with more stages, or let whole models teach each other (dml, kdcl).",
            )
        if not setup.student_name:
            raise KdctlError(
                "the student is a model without a name: no other last stage of its kind can be drawn.",
                "choose a student by its name.",
            )
        self.shared_tap = student.stage_taps[-2]
        self.student_taps = (self.shared_tap,)
        self.branches = nn.ModuleList(
            setup.make_model(setup.student_name).tail(self.shared_tap) for _ in range(config.num_branches - 1)
        )
        width = student.map_shape(self.shared_tap).channels
        self.gate = nn.Sequential(
            nn.Linear(width, config.num_branches),
            nn.BatchNorm1d(config.num_branches),
            nn.ReLU(),
            nn.Softmax(dim=1),
        )

    def models(self) -> tuple[NamedModel, ...]:
        """Return what all branches are together."""
        tails = [self.student.tail(self.shared_tap), *self.branches]
        encoder = self.student.encoder(self.shared_tap)
        return (NamedModel(name=ENSEMBLE, module=BranchEnsemble(encoder, tails, self.gate)),)

    def losses(self, step: Step) -> Losses:
        """Return the cross-entropies of branches and ensemble, and what the ensemble teaches the branches."""
        features = step.student.taps[self.shared_tap]
        own = step.student.require_logits()
        logits = [own, *(branch(features) for branch in self.branches)]
        together = weighted_sum(logits, self.gate(pooled(features)))
        growth = sigmoid_rampup(step.progress, self.config.warmup_share)
        target = together.detach()
        divergences = [soft_target_kl(each, target, self.config.temperature) for each in logits]
        return Losses(
            task=torch.stack([label_loss(each, step.batch) for each in (*logits, together)]).sum(),
            transfer={"ensemble": self.config.kd_weight * growth * torch.stack(divergences).sum()},
            logits=own,
        )


class BranchEnsemble(nn.Module):
    """The branches of a student and their gate: images [B, 3, H, W] -> logits [B, K]."""

    def __init__(self, encoder: nn.Module, branches: Sequence[nn.Module], gate: nn.Module) -> None:
        """Share modules: `encoder` gives the map that each of `branches` and `gate` read."""
        super().__init__()
        self.encoder, self.branches, self.gate = encoder, nn.ModuleList(branches), gate

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of the branches' logits, weighted by the gate."""
        features = self.encoder(images)
        return weighted_sum([branch(features) for branch in self.branches], self.gate(pooled(features)))


def pooled(features: Tensor) -> Tensor:
    """Return the mean of each channel, [B, C], of maps [B, C, H, W]."""
    return functional.adaptive_avg_pool2d(features, 1).flatten(1)


def weighted_sum(logits: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Return sum_i shares_i * logits_i, [B, K], of logits [B, K] each and shares [B, N]."""
    return (torch.stack(list(logits), dim=2) * shares.unsqueeze(1)).sum(dim=2)
