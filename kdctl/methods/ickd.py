"""ICKD: let channels be as alike as the teacher's are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt
from torch import Tensor

from kdctl.layers.conv import conv1x1, conv_bn
from kdctl.layers.initialise import draw_convolutions
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import dot_products, unit_vectors
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class InterChannelConfig(Supervision):
    """Form and weight of the distance between the channels' correlations."""

    ickd_weight: Annotated[float, Gt(0)] = tunable(2.5, 0.025, 250.0, log=True)
    """Of the distance. 2.5 in the authors' code for CIFAR-100, with the divergence beside it."""
    form: Literal["code", "paper"] = "code"
    """'code': rows of length 1, sum over the teacher's channels, mean over rows: what the published numbers
    were made with. 'paper': raw products, mean over all entries; it needs another weight."""


@methods.register("ickd", label="ICKD")
class InterChannelCorrelation(Distiller):
    """Cross-entropy and divergence, plus the distance of the channels' correlations.

    Liu et al., "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation",
    ICCV 2021, arXiv:2202.03680, eq. 2 to 4 (ICKD-C):
    L = ce_weight * CE + kd_weight * KL + ickd_weight * 1/(B * C) * sum_{B,C,C} (G_s - G_t)^2,
    with G = F F^T for each sample, F the last map before pooling as [C, H * W], and each row of G divided
    by its length. The student's map goes through a 1x1 convolution and batch norm to the teacher's width.

    The paper does not normalise rows, and divides by C^2: that is `form = 'paper'`, whose products grow with
    maps and widths. Maps may have different sizes, as only channels are compared. The authors' code
    registers a second convolution, which gets weight decay and no gradient; ours has one.
    """

    Config: ClassVar[type] = InterChannelConfig
    config: InterChannelConfig

    def __init__(self, config: InterChannelConfig, setup: Setup) -> None:
        """Build the projection to the teacher's width."""
        super().__init__(config, setup)
        self.student_taps = (setup.student.final_tap,)
        self.teacher_taps = ((setup.teacher.final_tap,),)
        self.reads_teacher_logits = config.kd_weight > 0
        width = setup.student.map_shape(setup.student.final_tap).channels
        self.projector = conv_bn(conv1x1(width, setup.teacher.map_shape(setup.teacher.final_tap).channels))
        draw_convolutions(self.projector)

    def losses(self, step: Step) -> Losses:
        """Return the distance of correlations beside the predictions' terms."""
        own = self._correlations(self.projector(step.student.taps[self.student.final_tap]))
        other = self._correlations(step.teachers[0].taps[self.setup.teacher.final_tap])
        gaps = (own - other).square()
        distance = gaps.sum(dim=2).mean() if self.config.form == "code" else gaps.mean()
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "ickd": self.config.ickd_weight * distance},
            logits=step.student.require_logits(),
        )

    def _correlations(self, features: Tensor) -> Tensor:
        """Return the products of all pairs of channels of maps [B, C, H, W]: [B, C, C], fp32."""
        channels = features.flatten(2)
        products = dot_products(channels, channels)
        return unit_vectors(products) if self.config.form == "code" else products
