"""AB: let hidden neurons be active where the teacher's are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn

from kdctl.layers.conv import conv1x1, conv_bn
from kdctl.layers.initialise import draw_convolutions
from kdctl.losses.features_first import FeaturesFirst, InitialisedByFeatures
from kdctl.losses.stages import doubling_weights, pair_preactivations, paired_maps
from kdctl.protocols.distiller import Match, Setup, Step, methods
from kdctl.protocols.maps import shared_size
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class ActivationBoundariesConfig(InitialisedByFeatures):
    """How far from the boundary, and how much that counts."""

    ab_weight: Annotated[float, Gt(0)] = tunable(3e-3, 1e-5, 1.0, log=True)
    """Of the distance, a sum over channels and positions. 3 / 1000 in the code of protocol `crd`, which
    ignores the weight of its settings."""
    margin: Annotated[float, Gt(0)] = 1.0
    """How far on the right side of its boundary a neuron should be. 1 in the paper's code and in that of
    protocol `crd`."""


@methods.register("ab", label="AB")
class ActivationBoundaries(FeaturesFirst):
    """Distances from the teacher's activation boundaries first, predictions after.

    Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
    AAAI 2019, arXiv:1811.03233, eq. 4 and 5. The first phase trains the student's features on
    ab_weight * sum_{k=1..n} 2^(k - n) * 1/B * sum_{B,C,H,W} e( r_k(f_s[k]), f_t[k] ),
    e(s, t) = max(0, margin - s)^2 where t > 0,  max(0, margin + s)^2 where t <= 0.

    f are the maps before the last activation of each of n pairs of stages, r a 1x1 convolution with batch
    norm, as in the authors' code. Only the sign of the teacher's responses matters. The second phase
    trains all of the student on its predictions: on the cross-entropy alone in the code of protocol `crd`,
    on the divergence without cross-entropy (ce_weight = 0, kd_weight > 0) in the authors'; theirs has no
    T^2, T = 3: kd_weight = 1/9 here.

    The code of protocol `crd` leaves the connector out where shapes are equal, and strides where sizes
    differ; ours always has one, and averages the larger map. Its student runs on running statistics in
    the first phase; ours on those of the batch, and the last batch norm of a pre-activation network is
    trained along.
    """

    Config: ClassVar[type] = ActivationBoundariesConfig
    config: ActivationBoundariesConfig

    def __init__(self, config: ActivationBoundariesConfig, setup: Setup) -> None:
        """Build a connector for every pair of stages."""
        super().__init__(config, setup)
        student, teacher = setup.student, setup.teacher
        pairs = pair_preactivations(student, teacher)
        shapes = [(student.map_shape(own), teacher.map_shape(other)) for own, other in pairs]
        self.projectors = nn.ModuleList(conv_bn(conv1x1(own[0], other[0])) for own, other in shapes)
        draw_convolutions(self.projectors)
        self.pairs = tuple(
            (own, teacher.tap_at(other, shared_size(*shape)))
            for (own, other), shape in zip(pairs, shapes, strict=True)
        )
        self.compare(*(tuple(dict.fromkeys(taps)) for taps in zip(*self.pairs, strict=True)))

    def first_share(self) -> float:
        """Return the share of the epochs in which boundaries alone are learned."""
        return self.config.init_share

    def matches(self) -> tuple[Match, ...]:
        """Return the pairs of stages, each with half the weight of the next deeper one."""
        if not self.compares:
            return ()
        weighted = zip(self.pairs, doubling_weights(len(self.pairs)), strict=True)
        return tuple(Match(student=own, teacher=other, weight=weight) for (own, other), weight in weighted)

    def connectors(self) -> dict[str, nn.Module]:
        """Return the connectors, which go with the boundaries."""
        return {"projectors": self.projectors}

    def features(self, step: Step) -> dict[str, Tensor]:
        """Return the weighted sum of the stages' distances."""
        weights = doubling_weights(len(self.pairs))
        compared = zip(weights, self.projectors, paired_maps(step, self.pairs), strict=True)
        distances = [
            weight * _boundary_distance(project(own), other, self.config.margin)
            for weight, project, (own, other) in compared
        ]
        return {"ab": self.config.ab_weight * torch.stack(distances).sum()}


def _boundary_distance(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Return the squared distances from the side on which the teacher is, [B, C, H, W] each.

    Summed over channels and positions, mean over samples, in fp32.
    """
    signs = torch.where(teacher > 0, 1.0, -1.0)
    return (margin - signs * student.float()).clamp(min=0).square().flatten(1).sum(dim=1).mean()
