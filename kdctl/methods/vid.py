"""VID: make the teacher's features likely, given the student's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.stages import ComparesStages, Reading, projector_between
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.protocols.backbone import Shape
from kdctl.protocols.distiller import Losses, Setup, Step, methods
from kdctl.protocols.maps import tap_and_size
from kdctl.recipe.component import Spec, component, option, tunable

_LEAST_VARIANCE = 1e-5
"""Keeps a teacher channel that is constant from being predicted with infinite confidence."""


@dataclass(frozen=True, kw_only=True)
class VariationalInformationConfig(Supervision):
    """Weight, and how the teacher's features are predicted."""

    vid_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.01, 10.0, log=True)
    """1 in the code of both protocols."""
    initial_variance: Annotated[float, Gt(_LEAST_VARIANCE)] = 5.0
    """Of every teacher channel before training. 5 in the code of both protocols."""
    projector: Spec = component("projector", "perceptron")
    """mu: predicts the teacher's features, one for each pair of stages; not shipped."""
    maps: Reading = option("activated", since="0.2.0")
    """Of wide ResNets: 'activated', or 'raw', the sums of residuals before batch norm and ReLU. 'raw' is the
    reading of the code of protocol `crd`, which sets it."""


class GaussianPrediction(nn.Module):
    """A normal distribution of the teacher's features given the student's, one variance a channel."""

    def __init__(self, mean: nn.Module, target: Shape, initial_variance: float) -> None:
        """`mean` maps student features to those of shape `target` (C_t, H, W)."""
        super().__init__()
        self.mean = mean
        # The inverse of softplus, written so that it does not overflow.
        excess = initial_variance - _LEAST_VARIANCE
        self.raw_variance = nn.Parameter(torch.full((target[0],), excess + math.log(-math.expm1(-excess))))

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the mean negative log-likelihood, less its constant, of `target` [B, C_t, H, W], in fp32."""
        variance = functional.softplus(self.raw_variance.float())[:, None, None] + _LEAST_VARIANCE
        error = self.mean(features).float() - target.float()
        return (error.square() / variance + variance.log()).mean() / 2


@methods.register("vid", label="VID")
class VariationalInformationDistillation(ComparesStages):
    """Cross-entropy and divergence, plus a bound on the information shared with the teacher's stages.

    Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
    arXiv:1904.05835, eq. 5 to 7:
    L = ce_weight * CE + kd_weight * KL
      + vid_weight * sum_pairs mean_{B,C,H,W} 1/2 * ( (mu(f_s) - f_t)^2 / v_c + log v_c ),
    with v_c = softplus(rho_c) + 1e-5 for each teacher channel c.

    The variances are trained with the student, as in the paper; one public port leaves them out of
    the optimizer. The paper sums over channels and positions, the public code and its weight average.
    The term may be negative. mu is by default three 1x1 convolutions with ReLUs between them.
    """

    Config: ClassVar[type] = VariationalInformationConfig
    config: VariationalInformationConfig

    def __init__(self, config: VariationalInformationConfig, setup: Setup) -> None:
        """Build a prediction for each pair of stages."""
        super().__init__(config, setup)
        self.predictions = nn.ModuleList(self._prediction(own, other) for own, other in self.pairs)

    def losses(self, step: Step) -> Losses:
        """Return the sum of the stages' negative log-likelihoods beside the predictions' terms."""
        maps = self.compared(step)
        surprises = [
            prediction(own, other) for prediction, (own, other) in zip(self.predictions, maps, strict=True)
        ]
        total = torch.stack(surprises).sum()
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "vid": self.config.vid_weight * total},
            logits=step.student.require_logits(),
        )

    def _prediction(self, student_tap: str, teacher_tap: str) -> GaussianPrediction:
        source = self.setup.student.map_shape(student_tap)
        target = self.setup.teacher.map_shape(tap_and_size(teacher_tap)[0])
        mean = projector_between(self.setup, self.config.projector, source, target)
        return GaussianPrediction(mean, target, self.config.initial_variance)
