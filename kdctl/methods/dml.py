"""DML: models that start from nothing and teach each other."""

from __future__ import annotations

import math
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
class MutualLearningConfig(PeerOptions):
    """What of the others a model learns from; the defaults are the paper's losses."""

    temperature: Annotated[float, Gt(0)] = tunable(1.0, 1.0, 20.0, log=True)
    """T: what logits are divided by before the softmax. 1 in the paper."""
    mean_of: Literal["divergences", "probabilities"] = "divergences"
    """'divergences': the mean of those from each of the others. 'probabilities': the divergence from the mean
    of their predictions, which the paper calls DML_e and finds worse."""
    sum_of_peers: bool = False
    """The sum over the others in place of the mean, as in the authors' code."""

    def __post_init__(self) -> None:
        """Refuse a sum of what is averaged already."""
        super().__post_init__()
        if self.sum_of_peers and self.mean_of == "probabilities":
            raise ValueError(
                "sum_of_peers with mean_of = 'probabilities': there is one divergence, not a sum"
            )


@methods.register("dml", label="DML")
class MutualLearning(LearnsWithPeers):
    """Trains the student beside peers, each by the labels and by what the others predict; no teacher.

    Zhang et al., "Deep Mutual Learning", CVPR 2018, arXiv:1706.00384, part 3: with K models,
    L_k = CE(z_k, y) + kd_weight * 1/(K - 1) * sum_{j != k} T^2 * KL(p_j || p_k), p_j without gradient.

    The paper takes the mean over the others, its code their sum (`sum_of_peers`): the same for two models.
    The paper's algorithm updates the models in turn, its code all at once, as we do unless `order` says
    otherwise. The first model is the student, and is shipped; how the others do is recorded in each epoch.
    """

    Config: ClassVar[type] = MutualLearningConfig
    config: MutualLearningConfig

    def lesson(self, logits: Sequence[Tensor], place: int, step: Step) -> Tensor:
        """Return the mean divergence from the others' predictions, 0-dim."""
        config = self.config
        others = [each.detach().float() for index, each in enumerate(logits) if index != place]
        if config.mean_of == "probabilities":
            softened = [functional.log_softmax(each / config.temperature, dim=1) for each in others]
            mean = torch.logsumexp(torch.stack(softened), dim=0) - math.log(len(others))
            # Logits of the mean: their softmax at T is the mean of the softened predictions.
            return soft_target_kl(logits[place], config.temperature * mean, config.temperature)
        divergences = [soft_target_kl(logits[place], each, config.temperature) for each in others]
        total = torch.stack(divergences).sum()
        return total if config.sum_of_peers else total / len(others)
