"""SemCKD: let each student stage learn from the teacher stages that mean the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.feature_distances import similarity_rows
from kdctl.losses.stages import at_one_size, projector_between
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import dot_products, unit_vectors
from kdctl.protocols.distiller import Distiller, Losses, Match, Setup, Step, methods
from kdctl.recipe.component import Spec, component, tunable


@dataclass(frozen=True, kw_only=True)
class SemanticCalibrationConfig(Supervision):
    """Weight, projections and the width of the attention."""

    semckd_weight: Annotated[float, Gt(0)] = tunable(400.0, 4.0, 4000.0, log=True)
    """beta: 400 in the paper and the code of protocol `simkd` (50 on ImageNet).

    Too much for learning rate 0.05 in short trainings on digits, where it crawls or diverges: lower one
    of them there (50 does well), or warm up.
    """
    num_anchors: Annotated[int, Ge(4), Le(65_536)] = 64
    """Similarities that speak for a sample. 64: the batch size of protocol `simkd`, hence the paper's."""
    projector: Spec = component("projector", "inverted_bottleneck")
    """Brings a student stage to a teacher stage, one for each of all pairs; not shipped."""


class SimilarityEmbedding(nn.Module):
    """Embeds each sample by its similarities to others: the queries and keys of the attention."""

    def __init__(self, num_anchors: int) -> None:
        """Compare with the first `num_anchors` samples of a batch."""
        super().__init__()
        self.num_anchors = num_anchors
        self.layers = nn.Sequential(
            nn.Linear(num_anchors, num_anchors // 2),
            nn.ReLU(inplace=True),
            nn.Linear(num_anchors // 2, num_anchors // 4),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return vectors [B, num_anchors / 4] of length 1, in fp32, for maps [B, C, H, W]."""
        rows = similarity_rows(features, num_anchors=self.num_anchors)
        padded = functional.pad(rows, (0, self.num_anchors - rows.shape[1]))
        return unit_vectors(self.layers(padded))


@methods.register("semckd", label="SemCKD")
class SemanticCalibration(Distiller):
    """Cross-entropy and divergence, plus the distances of all pairs of stages, weighted by attention.

    Chen et al., "Cross-Layer Distillation with Semantic Calibration", AAAI 2021, arXiv:2012.03236,
    section 3:  L = ce_weight * CE + kd_weight * KL
      + semckd_weight * 1/(B * S) * sum_{b,i,j} a_bij * mean_{C,H,W}( (R_ij(f_s,i) - f_t,j)_b^2 ),
    a_bij = softmax over the T teacher stages j of q_bi . k_bj, over S student stages i, where q and k are
    embeddings, of length 1, of row b of the batch's similarity matrix at that stage. The larger map of
    a pair is pooled to the smaller.

    In the paper an embedding reads a whole row, so its weights have the shape of the batch, and the
    authors' code skips the last, shorter batch. Ours reads the similarities to the first
    `num_anchors` samples, 0 for those that a smaller batch lacks. With as many anchors as samples
    that is the paper's embedding (the order of samples is random in any case). We also divide each
    row by its length: raw inner products grow with maps and widths and drown the biases.
    """

    Config: ClassVar[type] = SemanticCalibrationConfig
    config: SemanticCalibrationConfig

    def __init__(self, config: SemanticCalibrationConfig, setup: Setup) -> None:
        """Build an embedding for each stage and a projector for each pair."""
        super().__init__(config, setup)
        self.student_taps = setup.student.stage_taps
        self.teacher_taps = (setup.teacher.stage_taps,)
        self.reads_teacher_logits = config.kd_weight > 0
        self.queries = nn.ModuleList(SimilarityEmbedding(config.num_anchors) for _ in self.student_taps)
        self.keys = nn.ModuleList(SimilarityEmbedding(config.num_anchors) for _ in self.teacher_taps[0])
        self.projectors = nn.ModuleList(
            nn.ModuleList(self._projector(own, other) for other in self.teacher_taps[0])
            for own in self.student_taps
        )

    def matches(self) -> tuple[Match, ...]:
        """Return all pairs of stages; their weights are learned."""
        pairs = itertools.product(self.student_taps, self.teacher_taps[0])
        return tuple(Match(student=own, teacher=other) for own, other in pairs)

    def losses(self, step: Step) -> Losses:
        """Return the attended distances beside the predictions' terms."""
        student = [step.student.taps[tap] for tap in self.student_taps]
        teacher = [step.teachers[0].taps[tap] for tap in self.teacher_taps[0]]
        attended = (self._attention(student, teacher) * self._distances(student, teacher)).sum(dim=2).mean()
        return Losses(
            task=task_term(self.config, step),
            transfer={
                **prediction_terms(self.config, step),
                "semckd": self.config.semckd_weight * attended,
            },
            logits=step.student.require_logits(),
        )

    def _attention(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return how much each student stage attends to each teacher stage: [B, S, T]."""
        queries = torch.stack([embed(maps) for embed, maps in zip(self.queries, student, strict=True)], dim=1)
        keys = torch.stack([embed(maps) for embed, maps in zip(self.keys, teacher, strict=True)], dim=1)
        return dot_products(queries, keys).softmax(dim=2)

    def _distances(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the mean squared distance of each sample at each pair of stages: [B, S, T]."""
        rows = [
            [
                _distance(project, own, other)
                for project, other in zip(self._projectors_from(place), teacher, strict=True)
            ]
            for place, own in enumerate(student)
        ]
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)

    def _projector(self, student_tap: str, teacher_tap: str) -> nn.Module:
        source = self.setup.student.map_shape(student_tap)
        target = self.setup.teacher.map_shape(teacher_tap)
        return projector_between(self.setup, self.config.projector, source, target)

    def _projectors_from(self, place: int) -> list[nn.Module]:
        return list(self.projectors[place].children())


def _distance(project: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """Return each sample's mean squared distance [B] of a projected student map and a teacher map."""
    own, other = at_one_size(student, teacher)
    return (project(own).float() - other.float()).square().mean(dim=(1, 2, 3))
