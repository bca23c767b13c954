"""OFD: match features before their ReLU, as far as they are not cut off by it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from kdctl.layers.branches import Residual
from kdctl.layers.conv import conv1x1, conv_bn
from kdctl.layers.initialise import draw_convolutions
from kdctl.losses.stages import at_one_size, doubling_weights, pair_preactivations
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Distiller, Losses, Match, Setup, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class OfdConfig(Supervision):
    """Weight of the distances."""

    kd_weight: Annotated[float, Ge(0)] = 0.0
    """Of T^2 * KL(teacher || student); the paper does without."""
    ofd_weight: Annotated[float, Gt(0)] = tunable(1e-3, 1e-5, 1e-1, log=True)
    """Of the distances, which are sums over channels and positions. 1e-3 in the authors' CIFAR code."""


@methods.register("ofd", label="OFD")
class OverhaulOfFeatureDistillation(Distiller):
    """Cross-entropy, plus partial distances from the teacher's maps before their ReLU.

    Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, arXiv:1904.01866:
    L = ce_weight * CE + ofd_weight * sum_{i=1..n} 2^(i - n) * d_p( r_i(f_s[i]), max(f_t[i], m_i) ).

    f are the maps before the last ReLU of each of n pairs of stages, r 1x1 convolutions with batch norm,
    m the margin: per channel, the expected value of the teacher's negative responses. d_p is the squared
    distance without what both sides' ReLU would cut off, summed over C, H, W, mean over the batch;
    shallower stages count half as much as the next deeper ones (in the authors' code).

    Margins follow from scale and shift of the batch norm that the teacher's map comes from; of a residual
    sum that of the branch, as in the authors' code, which overlooks the shortcut. Where no batch norm
    gives all channels of the map (the concatenations of ShuffleNetV2, say), they are the means of
    the negative responses in each batch: the same expectation, measured; the paper allows both. Where the
    models' maps differ in size, the larger is pooled: the teacher's after its margin.

    The authors put the teacher's batch norms into training mode; ours stay in eval mode, as the teacher
    is shared between runs.
    """

    Config: ClassVar[type] = OfdConfig
    config: OfdConfig

    def __init__(self, config: OfdConfig, setup: Setup) -> None:
        """Build a connector and find the margin for every pair of stages."""
        super().__init__(config, setup)
        student, teacher = setup.student, setup.teacher
        self.pairs = pair_preactivations(student, teacher)
        self.connectors = nn.ModuleList(
            conv_bn(conv1x1(student.map_shape(own).channels, teacher.map_shape(other).channels))
            for own, other in self.pairs
        )
        draw_convolutions(self.connectors)
        self.margins = nn.ModuleList(MarginRelu(known_margin(teacher, other)) for _, other in self.pairs)
        self.student_taps = tuple(own for own, _ in self.pairs)
        self.teacher_taps = (tuple(other for _, other in self.pairs),)
        self.reads_teacher_logits = config.kd_weight > 0

    def matches(self) -> tuple[Match, ...]:
        """Return the pairs of stages, each with half the weight of the next deeper one."""
        weighted = zip(self.pairs, doubling_weights(len(self.pairs)), strict=True)
        return tuple(Match(student=own, teacher=other, weight=weight) for (own, other), weight in weighted)

    def losses(self, step: Step) -> Losses:
        """Return the sum of the stages' distances beside the predictions' terms."""
        weighted = zip(doubling_weights(len(self.pairs)), self._distances(step), strict=True)
        distances = [weight * distance for weight, distance in weighted]
        return Losses(
            task=task_term(self.config, step),
            transfer={
                **prediction_terms(self.config, step),
                "ofd": self.config.ofd_weight * torch.stack(distances).sum(),
            },
            logits=step.student.require_logits(),
        )

    def _distances(self, step: Step) -> Iterator[Tensor]:
        """Yield the distance of each pair of stages, shallow to deep."""
        student, teacher = step.student.taps, step.teachers[0].taps
        for (own, other), connector, margin in zip(self.pairs, self.connectors, self.margins, strict=True):
            features, target = at_one_size(student[own], margin(teacher[other]))
            yield partial_l2(connector(features), target)


class MarginRelu(nn.Module):
    """Cuts values off below a negative margin of their channel, not below zero."""

    margin: Tensor | None

    def __init__(self, margin: Tensor | None) -> None:
        """Cut at `margin`, [C]; None: at the mean of the batch's negative values."""
        super().__init__()
        self.register_buffer("margin", None if margin is None else margin.float()[None, :, None, None])

    def forward(self, features: Tensor) -> Tensor:
        """Return max(features, margin), fp32, for features [B, C, H, W]."""
        margin = measured_negative(features) if self.margin is None else self.margin
        return torch.maximum(features.float(), margin)


def known_margin(teacher: Backbone, tap: str) -> Tensor | None:
    """Return the expected negative value of each channel [C], from the batch norm that gives the tap.

    None: no batch norm gives it.
    """
    norm = last_batch_norm(teacher.links[tap])
    if norm is None:
        return None
    if not norm.affine:
        return expected_negative(torch.zeros(norm.num_features), torch.ones(norm.num_features))
    return expected_negative(norm.bias.detach(), norm.weight.detach().abs())


def last_batch_norm(module: nn.Module) -> nn.BatchNorm2d | None:
    """Return the batch norm whose output the module gives, that of the branch in a residual sum."""
    if isinstance(module, nn.Sequential) and len(module) > 0:
        return last_batch_norm(module[-1])
    if isinstance(module, Residual):
        return last_batch_norm(module.branch)
    return module if isinstance(module, nn.BatchNorm2d) else None


_HIGHEST_SCORE = 30.0
"""Standard deviations above zero at which nothing negative is left to speak of."""


def expected_negative(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return E[x | x < 0] of normal variables: m - s * pdf(m / s) / cdf(-m / s).

    Heo et al., arXiv:1904.01866. Through logarithms, so that it holds for any mean (public code
    breaks off where fewer than one in a thousand are negative, and takes -3 s).

    Args:
        mean: m, any shape.
        deviation: s >= 0, the same shape.

    Returns:
        The same shape, fp64: below 0, or 0 where s = 0 and m >= 0.
    """
    deviation = deviation.double().clamp(min=1e-12)
    score = (mean.double() / deviation).clamp(max=_HIGHEST_SCORE)
    log_density = -score.square() / 2 - math.log(2 * math.pi) / 2
    hazard = (log_density - torch.special.log_ndtr(-score)).exp()
    return deviation * (score - hazard)


def measured_negative(features: Tensor) -> Tensor:
    """Return the mean of each channel's negative values in this batch; 0 where it has none.

    Args:
        features: [B, C, H, W].

    Returns:
        [1, C, 1, 1], fp32.
    """
    total = features.float().clamp(max=0).sum(dim=(0, 2, 3), keepdim=True)
    count = (features < 0).sum(dim=(0, 2, 3), keepdim=True)
    return total / count.clamp(min=1)


def partial_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance without the positions where student <= teacher <= 0.

    Heo et al., arXiv:1904.01866: there both are cut off by the ReLU to come. Summed over channels and
    positions, mean over samples, in fp32.

    Args:
        student: [B, C, H, W].
        teacher: the same shape.

    Returns:
        0-dim tensor.
    """
    student, teacher = student.float(), teacher.float()
    matters = (student > teacher) | (teacher > 0)
    return torch.where(matters, (student - teacher).square(), 0.0).flatten(1).sum(dim=1).mean()
