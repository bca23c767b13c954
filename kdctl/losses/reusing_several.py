"""SimKD with several teachers: what its two readings share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import nn

from kdctl.losses.feature_loss import FeatureLoss
from kdctl.losses.reused_classifiers import Mean, ProjectedHeads, ReusedClassifiers, mean_prediction
from kdctl.losses.several_teachers import SEVERAL
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step
from kdctl.protocols.maps import Size, shared_size
from kdctl.recipe.component import Spec, component, tunable


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
        sums: dict[str, torch.Tensor] = {}
        for projected, outputs, (tap,) in zip(maps, step.teachers, self.teacher_taps, strict=True):
            for name, distance in self.config.distances(projected, outputs.taps[tap]).items():
                share = self.config.simkd_weight / len(maps) * distance
                sums[name] = sums[name] + share if name in sums else share
        with torch.no_grad():
            logits = [tail(each) for tail, each in zip(self._tails, maps, strict=True)]
        return Losses(
            task=None,
            transfer={"simkd" if len(sums) == 1 else f"simkd_{name}": term for name, term in sums.items()},
            logits=mean_prediction(logits, self.mean),
        )

    def inference_model(self) -> nn.Module:
        """Return the student's encoder, the projectors, and copies of the teachers' classifiers."""
        encoder = self.student.encoder(self.student.final_tap)
        return ReusedClassifiers(encoder, self.heads, copy.deepcopy(self._tails), self.mean)
