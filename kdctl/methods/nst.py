"""NST: let neurons be moved by the same places of an image as the teacher's are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from kdctl.losses.stages import ComparesStages, Reading
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import dot_products, unit_vectors
from kdctl.protocols.distiller import Losses, Match, Step, methods
from kdctl.recipe.component import option, tunable


@dataclass(frozen=True, kw_only=True)
class NeuronSelectivityConfig(Supervision):
    """Weight of the discrepancy between neurons."""

    nst_weight: Annotated[float, Gt(0)] = tunable(50.0, 1.0, 500.0, log=True)
    """Of the discrepancy. 50 in the code of protocol `crd`; `simkd` has no NST."""
    over_stages: Literal["mean", "sum"] = option("mean", since="0.2.0")
    """What is weighted: the mean over the pairs of stages, or their sum, as in the code of protocol `crd`,
    which sets it."""
    maps: Reading = option("activated", since="0.2.0")
    """Of wide ResNets: 'activated', or 'raw', the sums of residuals before batch norm and ReLU. 'raw' is the
    reading of the code of protocol `crd`, which sets it."""


@methods.register("nst", label="NST")
class NeuronSelectivityTransfer(ComparesStages):
    """Cross-entropy and divergence, plus the discrepancy of the neurons' selectivity patterns.

    Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
    arXiv:1707.01219, sections 3 and 4, with the polynomial kernel of degree 2 and offset 0:
    L = ce_weight * CE + kd_weight * KL + nst_weight * mean_pairs mean_B MMD^2(s, t),
    MMD^2(s, t) = mean_{ij} (s_i . s_j)^2 + mean_{ij} (t_i . t_j)^2 - 2 * mean_{ij} (s_i . t_j)^2,
    where s_i, t_j are the channels of a student's and a teacher's map, each a vector over the H * W
    positions divided by its L2 norm.

    The paper writes weight / 2 and uses one stage; the code of protocol `crd` sums over all stages, which is
    `over_stages = 'sum'`. By default we average over the pairs, so that the weight does not depend on how
    many there are: three stages under that code's weight of 50 are 150 here.
    """

    Config: ClassVar[type] = NeuronSelectivityConfig
    config: NeuronSelectivityConfig

    def matches(self) -> tuple[Match, ...]:
        """Return the pairs of stages, each with its share of the term."""
        share = 1 / len(self.pairs) if self.config.over_stages == "mean" else 1.0
        return tuple(Match(student=own, teacher=other, weight=share) for own, other in self.pairs)

    def losses(self, step: Step) -> Losses:
        """Return the discrepancy beside the predictions' terms."""
        discrepancies = [
            _discrepancy(_selectivities(own), _selectivities(other)) for own, other in self.compared(step)
        ]
        stacked = torch.stack(discrepancies)
        discrepancy = stacked.mean() if self.config.over_stages == "mean" else stacked.sum()
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "nst": self.config.nst_weight * discrepancy},
            logits=step.student.require_logits(),
        )


def _selectivities(features: Tensor) -> Tensor:
    """Return where each channel of maps [B, C, H, W] responds: vectors of length 1, [B, C, H * W], fp32."""
    return unit_vectors(features.flatten(2))


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the batch's mean MMD^2 of vectors [B, C_s, D] and [B, C_t, D]."""
    return (
        _mean_kernel(student, student) + _mean_kernel(teacher, teacher) - 2 * _mean_kernel(student, teacher)
    )


def _mean_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of (x . y)^2 over the batch and all x of [B, N, D], y of [B, M, D]."""
    return dot_products(first, second).square().mean()
