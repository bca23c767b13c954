"""FSP: let features flow from layer to layer as they do in the teacher."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn

from kdctl.losses.features_first import FeaturesFirst, InitialisedByFeatures
from kdctl.losses.stages import Reading, at_one_size, map_of, pair_stages
from kdctl.losses.vectors import dot_products
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Match, Setup, Step, methods
from kdctl.recipe.component import Spec, component, option, tunable

_STEM = "stem"
"""Where features begin to flow."""


@dataclass(frozen=True, kw_only=True)
class FspConfig(InitialisedByFeatures):
    """How much the flow counts, and what stands between widths that differ."""

    fsp_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.01, 100.0, log=True)
    """Of the distance of flows. 1: the code of protocol `crd` asks for 50 in its settings and ignores it."""
    projector: Spec = component("projector", "linear")
    """Brings the student's maps to the teacher's width where the two differ; not shipped."""
    maps: Reading = option("activated", since="0.2.0")
    """Of wide ResNets: 'activated', or 'raw', the sums of residuals before batch norm and ReLU. 'raw' is the
    reading of the code of protocol `crd`, which sets it."""


@methods.register("fsp", label="FSP")
class FlowOfSolutionProcedure(FeaturesFirst):
    """Distances of the flows between adjacent stages first, predictions after.

    Yim et al., "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
    Learning", CVPR 2017, eq. 1 to 3. The first phase trains the student's features on
    fsp_weight * sum_i mean_{B,C,C'}( (G_i(s) - G_i(t))^2 ),  G_i = 1 / (H * W) * f_i f_{i+1}^T,
    with f_i the flattened maps [C, H * W] of the stem and of all stages, the larger of two adjacent ones
    averaged to the smaller. The second trains all of the student on its predictions.

    Flows have the shape (C_i, C_{i+1}), so the paper and its code want equal widths at every tap. Where
    they differ we put a projector on the student's map, so that any pair of models will do; where they do
    not, nothing is added. Stages are paired by relative depth: one of a model that has fewer flows into
    itself.
    """

    Config: ClassVar[type] = FspConfig
    config: FspConfig

    def __init__(self, config: FspConfig, setup: Setup) -> None:
        """Build a projector for every tap of the student that differs in width."""
        super().__init__(config, setup)
        self.pairs = _stem(setup.student, setup.teacher) + tuple(
            (map_of(setup.student, own, config.maps), map_of(setup.teacher, other, config.maps))
            for own, other in pair_stages(setup.student, setup.teacher)
        )
        self.projectors = nn.ModuleList(self._projector(*pair) for pair in self.pairs)
        self.compare(*(tuple(dict.fromkeys(taps)) for taps in zip(*self.pairs, strict=True)))

    def first_share(self) -> float:
        """Return the share of the epochs in which flows alone are learned."""
        return self.config.init_share

    def matches(self) -> tuple[Match, ...]:
        """Return the taps between which features flow, in the phase that looks at them."""
        pairs = self.pairs if self.compares else ()
        return tuple(Match(student=own, teacher=other, weight=1.0) for own, other in pairs)

    def connectors(self) -> dict[str, nn.Module]:
        """Return the projectors, which go with the flows."""
        return {"projectors": self.projectors}

    def features(self, step: Step) -> dict[str, Tensor]:
        """Return the sum of the flows' mean squared distances."""
        student, teacher = step.student.taps, step.teachers[0].taps
        own = _flows(
            [project(student[tap]) for project, (tap, _) in zip(self.projectors, self.pairs, strict=True)]
        )
        other = _flows([teacher[tap] for _, tap in self.pairs])
        distances = [(ours - theirs).square().mean() for ours, theirs in zip(own, other, strict=True)]
        return {"fsp": self.config.fsp_weight * torch.stack(distances).sum()}

    def _projector(self, student_tap: str, teacher_tap: str) -> nn.Module:
        source = self.student.map_shape(student_tap)
        width = self.setup.teacher.map_shape(teacher_tap).channels
        if source[0] == width:
            return nn.Identity()
        return self.setup.make_projector(self.config.projector, source, (width, *source[1:]))


def _stem(student: Backbone, teacher: Backbone) -> tuple[tuple[str, str], ...]:
    """Return the pair of stems, if both models have one."""
    return ((_STEM, _STEM),) if all(_STEM in model.tap_shapes for model in (student, teacher)) else ()


def _flows(maps: list[Tensor]) -> list[Tensor]:
    """Return the flows [B, C_i, C_{i+1}] between adjacent ones of maps [B, C_i, H_i, W_i], in fp32."""
    pairs = [at_one_size(first, second) for first, second in itertools.pairwise(maps)]
    return [
        dot_products(first.flatten(2), second.flatten(2)) / (first.shape[-2] * first.shape[-1])
        for first, second in pairs
    ]
