"""SimKD with several teachers: what its two readings share, and what they ship."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.feature_loss import FeatureLoss, sum_of_places
from kdctl.losses.several_teachers import SEVERAL
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step
from kdctl.protocols.maps import Size, pool_to, shared_size
from kdctl.recipe.component import Spec, component, tunable

Mean = Literal["probabilities", "logits"]
"""Of what several classifiers say."""


class ProjectedHeads(nn.Module):
    """A student's map as several teachers' maps: through a projector each, or one for all."""

    def __init__(self, projectors: Sequence[nn.Module], sizes: Sequence[Size], widths: Sequence[int]) -> None:
        """`sizes`: of the maps before each projector. `widths`: channels of each teacher's map."""
        super().__init__()
        self.projectors = nn.ModuleList(projectors)
        self.sizes = tuple(sizes)
        self.widths = tuple(widths)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return a map [B, C_k, H, W] for each teacher, for features [B, C, H, W]."""
        projected = [
            project(pool_to(features, size))
            for project, size in zip(self.projectors, self.sizes, strict=True)
        ]
        return projected if len(projected) > 1 else list(projected[0].split(self.widths, dim=1))


class ReusedClassifiers(nn.Module):
    """A student's encoder, projectors, and for each projected map the rest of a teacher behind it."""

    def __init__(
        self, encoder: nn.Module, heads: ProjectedHeads, tails: Sequence[nn.Module], mean: Mean
    ) -> None:
        """`tails` read the maps of `heads`; `mean` says of what of theirs."""
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.tails = nn.ModuleList(tails)
        self.mean: Mean = mean

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of normalised images [B, 3, H, W]."""
        maps = self.heads(self.encoder(images))
        return mean_prediction([tail(each) for tail, each in zip(self.tails, maps, strict=True)], self.mean)


def mean_prediction(logits: Sequence[Tensor], mean: Mean) -> Tensor:
    """Return logits [B, K] that stand for the mean of several: of their probabilities, or of themselves."""
    stacked = torch.stack([one.float() for one in logits])
    if mean == "logits":
        return stacked.mean(dim=0)
    return torch.logsumexp(functional.log_softmax(stacked, dim=2), dim=0) - math.log(len(logits))


@dataclass(frozen=True, kw_only=True)
class ReuseOptions(FeatureLoss):
    """Projector and weight; a method's `Config` adds its own to these."""

    projector: Spec = component("projector", "bottleneck")
    """Maps the student's last feature map to the teachers' width; part of the shipped model."""
    simkd_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 100.0, log=True)
    """Of the mean of the distances of features. 1 in SimKD."""


class ReusesSeveral(Distiller):
    """Aligns the student's last map with those of several teachers, whose classifiers are shipped.

    A subclass says in its `__init__` of how much the projectors are (`build`), and of what of the
    classifiers' answers the prediction is the mean (`mean`).
    """

    Config: ClassVar[type] = ReuseOptions
    num_teachers: ClassVar[tuple[int, int | None]] = SEVERAL
    mean: ClassVar[Mean]
    config: ReuseOptions
    heads: ProjectedHeads

    def __init__(self, config: Any, setup: Setup) -> None:
        """Read the last maps alone."""
        super().__init__(config, setup)
        self.student_taps = (setup.student.final_tap,)
        self.reads_student_logits = False
        self.reads_teacher_logits = False
        # In a tuple: no submodules, so never trained, saved or put into training mode.
        self._tails = tuple(teacher.tail(teacher.final_tap) for teacher in setup.teachers)

    @classmethod
    def ships_student(cls, config: ReuseOptions) -> bool:
        """Nobody ships the student's own classifier: it is not trained."""
        return False

    def size_with(self, teachers: Sequence[Backbone]) -> Size:
        """Return the size of the smallest of the last maps of the student and of some teachers."""
        shapes = [model.map_shape(model.final_tap) for model in (self.setup.student, *teachers)]
        size = (shapes[0][1], shapes[0][2])
        for shape in shapes:
            size = shared_size(size, shape)
        return size

    def build(self, sizes: Sequence[Size], widths: Sequence[Sequence[int]]) -> None:
        """Build a projector for each of `sizes`, as wide as the teachers together that share it."""
        source = self.setup.student.map_shape(self.setup.student.final_tap).channels
        self.heads = ProjectedHeads(
            [
                self.setup.make_projector(self.config.projector, (source, *size), (sum(group), *size))
                for size, group in zip(sizes, widths, strict=True)
            ],
            sizes,
            [width for group in widths for width in group],
        )
        each = list(sizes) * (len(self.setup.teachers) // len(sizes))
        self.teacher_taps = tuple(
            (teacher.tap_at(teacher.final_tap, size),)
            for teacher, size in zip(self.setup.teachers, each, strict=True)
        )

    def losses(self, step: Step) -> Losses:
        """Return the mean distance of the projected maps from the teachers'."""
        maps = self.heads(step.student.taps[self.setup.student.final_tap])
        share = self.config.simkd_weight / len(maps)
        places = (
            {name: share * term for name, term in self.config.distances(own, other.taps[tap]).items()}
            for own, other, (tap,) in zip(maps, step.teachers, self.teacher_taps, strict=True)
        )
        with torch.no_grad():
            logits = [tail(each) for tail, each in zip(self._tails, maps, strict=True)]
        return Losses(
            task=None,
            transfer=sum_of_places("simkd", places),
            logits=mean_prediction(logits, self.mean),
        )

    def inference_model(self) -> nn.Module:
        """Return the student's encoder, the projectors, and copies of the teachers' classifiers."""
        encoder = self.student.encoder(self.student.final_tap)
        return ReusedClassifiers(encoder, self.heads, copy.deepcopy(self._tails), self.mean)
