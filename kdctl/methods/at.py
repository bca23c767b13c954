"""AT: look where the teacher looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional

from kdctl.losses.feature_distances import attention_map
from kdctl.losses.stages import ComparesStages, Reading
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import lengths
from kdctl.protocols.distiller import Losses, Step, methods
from kdctl.recipe.component import option, tunable


@dataclass(frozen=True, kw_only=True)
class AttentionTransferConfig(Supervision):
    """Form and weight of the distance between attention maps."""

    at_weight: Annotated[float, Gt(0)] = tunable(1000.0, 10.0, 10000.0, log=True)
    """1000 in the authors' code and both protocols; also the paper's 10^3 (section 4.1)."""
    mode: Literal["mean", "paper"] = "mean"
    """'mean': mean squared difference, as all public code has it. 'paper': half the norm of it."""
    maps: Reading = option("activated", since="0.2.0")
    """Of wide ResNets: 'activated', or 'raw', the sums of residuals before batch norm and ReLU. 'raw' is the
    reading of the code of protocol `crd`, which sets it."""


@methods.register("at", label="AT")
class AttentionTransfer(ComparesStages):
    """Cross-entropy and divergence, plus the distances of the attention maps of all stages.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928, eq. 2.
    With a = normalised (mean over the channels of f^2), of H * W elements, summed over pairs of stages:
    `mean`:   L = ce_weight * CE + kd_weight * KL + at_weight * sum_pairs mean_{B,HW}( (a_s - a_t)^2 );
    `paper`:  the last sum is  sum_pairs 1/2 * mean_B( ||a_s - a_t||_2 ) / (H * W).

    The paper's beta is 10^3 divided by the number of elements in an attention map and by the batch
    size, hence the H * W; its code squares the norm and drops the 1/2. Public code that zips
    the two lists of stages drops the student's last one where it has more than the teacher; here
    every stage of both is in a pair.
    """

    Config: ClassVar[type] = AttentionTransferConfig
    config: AttentionTransferConfig

    def losses(self, step: Step) -> Losses:
        """Return the sum of the distances beside the predictions' terms."""
        distance = _mean_square if self.config.mode == "mean" else _half_norm
        attentions = [(attention_map(own), attention_map(other)) for own, other in self.compared(step)]
        total = torch.stack([distance(own, other) for own, other in attentions]).sum()
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "at": self.config.at_weight * total},
            logits=step.student.require_logits(),
        )


def _mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of attention maps [B, H * W]."""
    return functional.mse_loss(student, teacher)


def _half_norm(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the mean length of the difference of attention maps [B, H * W], per element."""
    return lengths(student - teacher).mean() / (2 * student.shape[1])
