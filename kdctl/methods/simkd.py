"""SimKD: reuse the teacher's classifier and align the features it reads."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from kdctl.losses.aligned_stages import AlignedPair, Taps, aligned_pairs, check_taps
from kdctl.losses.feature_loss import NOTHING_TO_DISTIL, FeatureLoss, sum_of_places
from kdctl.losses.projected_classifier import ProjectedClassifier, links_after
from kdctl.losses.stages import projector_between
from kdctl.losses.supervision import label_loss
from kdctl.protocols.distiller import Distiller, Losses, Match, Setup, Step, methods
from kdctl.protocols.maps import pool_to
from kdctl.recipe.component import Spec, component, tunable

_PARTS = {"junction": (1.0, 0.0), "end": (0.0, 1.0), "both": (0.5, 0.5)}
"""Of the loss that is taken at the junction, and at the end."""


@dataclass(frozen=True, kw_only=True)
class SimKdConfig(FeatureLoss):
    """What SimKD leaves open, and what its followers tried; the defaults are the paper's method."""

    projector: Spec = component("projector", "bottleneck")
    """Maps the student's last feature map to the teacher's width; part of the shipped model."""
    simkd_weight: Annotated[float, Ge(0)] = tunable(1.0, 0.1, 100.0, log=True)
    """Of the feature loss; 1 in the paper. 0 is refused."""
    taps: Taps = "end"
    """Student stages with a projector and a loss of their own; only the last one's is shipped.

    "end": the last one. "biased": 1/3 of the loss at 2/3 of the depth, 2/3 at the end. "all": every
    pair of stages alike. Or pairs of relative depth and weight, such as [[0.5, 1.0], [1.0, 3.0]].
    """
    label_filter: bool = False
    """Learn features only from the samples whose class the teacher predicts.

    The metric `kept_percent` of each epoch tells how many these are: with a teacher that knows its
    training set by heart nearly all, and then the filter does nothing.
    """
    reuse_from: float | str = 1.0
    """The teacher's stage, by name or relative depth, after which its own layers are reused (SimKD+)."""
    loss_at: Literal["junction", "end", "both"] = "junction"
    """Where features are compared: where the reused layers begin, at their last map, half and half."""
    ce_weight: Annotated[float, Ge(0)] = 0.0
    """Of the cross-entropy of the student's own classifier (joint training); 0 leaves it out."""
    ships: Literal["reused", "own"] = "reused"
    """Which classifier is evaluated and shipped: the teacher's, or after joint training the student's."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        check_taps(self.taps)
        if self.simkd_weight == 0:
            raise ValueError(f"simkd_weight = 0: the feature loss {NOTHING_TO_DISTIL}")
        if not isinstance(self.reuse_from, str) and not 0 < self.reuse_from <= 1:
            raise ValueError(f"reuse_from = {self.reuse_from}: a relative depth is above 0 and at most 1")
        if self.ships == "own" and self.ce_weight == 0:
            raise ValueError("ships = 'own' with ce_weight = 0: the student's own classifier is not trained")


@methods.register("simkd", label="SimKD")
class SimKd(Distiller):
    """Trains the student's encoder to hand the teacher's own classifier the features it knows.

    Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022,
    arXiv:2203.14001, eq. 2 and 3:  L = mean( (f_t - P(f_s))^2 ),  prediction = W_t * GAP(P(f_s)).

    f are the last maps before pooling, the larger one average-pooled to the smaller one's size. The
    paper writes a sum of squares; its code, its results and ours use the mean over B, C, H and W,
    which is C * H * W times smaller. Labels are not used, and the student's own classifier (and
    last 1x1 convolution, where it has one) gets no gradient: it is left out of training and of the
    shipped model. The teacher's part after the map (its last convolution too, where it has one) is
    reused as it is.

    The options add, for variants that have been reported but not published with code: other distances
    and mixes (`loss`), several projectors (`taps`), a filter by the teacher's success (`label_filter`),
    more reused layers (`reuse_from`, `loss_at`: the tail stays frozen and in eval mode while gradients
    pass through it), and the student's own classifier trained along (`ce_weight`, `ships`). Stages are
    paired by relative depth; a stage of the teacher with several partners joins the student at the
    deepest of them. Where the student's map is the smaller one, the reused layers see maps of its size.
    """

    Config: ClassVar[type] = SimKdConfig
    config: SimKdConfig

    def __init__(self, config: SimKdConfig, setup: Setup) -> None:
        """Build a projector for every pair of stages that is aligned."""
        super().__init__(config, setup)
        teacher = setup.teacher
        *earlier, junction = aligned_pairs(setup.student, teacher, taps=config.taps, until=config.reuse_from)
        self._earlier = tuple(earlier)
        self.student_tap, self.teacher_tap, self.size = junction.student, junction.teacher, junction.size
        self._target = junction.target
        self._last_target = junction.target if junction.teacher == teacher.final_tap else teacher.final_tap
        self._share_at_junction, self._share_at_end = (
            part * junction.share for part in _PARTS[config.loss_at]
        )
        self.student_taps = tuple(dict.fromkeys(pair.student for pair in (*earlier, junction)))
        self.teacher_taps = (self._compared_taps(),)
        self.reads_student_logits = config.ce_weight > 0
        self.reads_teacher_logits = config.label_filter
        self.projector = self._make_projector(junction)
        self.extra_projectors = nn.ModuleList(map(self._make_projector, earlier))
        order = list(teacher.tap_shapes)
        num_stages = order.index(teacher.final_tap) - order.index(self.teacher_tap)
        tail = teacher.tail(self.teacher_tap)
        # In a tuple: no submodules, so never trained, saved or put into training mode.
        self._reused = (tail[:num_stages], tail[num_stages:])

    @classmethod
    def ships_student(cls, config: SimKdConfig) -> bool:
        """Whether the student's own classifier is shipped."""
        return config.ships == "own"

    def matches(self) -> tuple[Match, ...]:
        """Return the stages that are aligned, each with its share of the loss."""
        shares = [(pair.student, pair.teacher, pair.share) for pair in self._earlier]
        shares.append((self.student_tap, self.teacher_tap, self._share_at_junction))
        shares.append((self.student_tap, self.setup.teacher.final_tap, self._share_at_end))
        return tuple(
            Match(student=student, teacher=teacher, weight=share)
            for student, teacher, share in shares
            if share > 0
        )

    def losses(self, step: Step) -> Losses:
        """Return the distances of the aligned maps, and the cross-entropy in joint training."""
        projected = self.projector(pool_to(step.student.taps[self.student_tap], self.size))
        stages, classifier = self._reused
        with contextlib.nullcontext() if self._share_at_end > 0 else torch.no_grad():
            last_map = stages(projected)
        with torch.no_grad():
            logits = classifier(last_map)
        kept = _teacher_is_right(step) if self.config.label_filter else None
        task = None
        if self.config.ce_weight > 0:
            own = step.student.require_logits()
            task = self.config.ce_weight * label_loss(own, step.batch)
            logits = own if self.config.ships == "own" else logits
        return Losses(
            task=task,
            transfer=sum_of_places("simkd", self._distances(step, projected, last_map, kept)),
            logits=logits,
            metrics={} if kept is None else {"kept_percent": 100 * kept.float().mean()},
        )

    def inference_model(self) -> nn.Module:
        """Return student encoder, projector and a copy of the teacher's tail; or the student alone."""
        if self.config.ships == "own":
            return self.student
        teacher, tap = self.setup.teacher, self.teacher_tap
        return ProjectedClassifier(
            self.student,
            self.student_tap,
            self.projector,
            copy.deepcopy(teacher.tail(tap)),
            target=(teacher.tap_shapes[tap][0], *self.size),
            links=links_after(teacher, tap, self.size),
            stages=teacher.stage_taps,
        )

    def _distances(
        self, step: Step, projected: Tensor, last_map: Tensor, kept: Tensor | None
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the weighted distances of the kept samples at every place where features are compared."""
        teacher = step.teachers[0].taps
        for pair, projector in zip(self._earlier, self.extra_projectors, strict=True):
            features = projector(pool_to(step.student.taps[pair.student], pair.size))
            yield self._compared(features, teacher[pair.target], pair.share, kept)
        if self._share_at_junction > 0:
            yield self._compared(projected, teacher[self._target], self._share_at_junction, kept)
        if self._share_at_end > 0:
            yield self._compared(last_map, teacher[self._last_target], self._share_at_end, kept)

    def _compared(
        self, features: Tensor, target: Tensor, share: float, kept: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the weighted distances of student features from a teacher's map, at their size."""
        height, width = features.shape[-2:]
        distances = self.config.distances(features, pool_to(target, (height, width)), kept)
        return {name: self.config.simkd_weight * share * term for name, term in distances.items()}

    def _compared_taps(self) -> tuple[str, ...]:
        """Return the teacher's taps that the loss reads."""
        taps = [pair.target for pair in self._earlier]
        if self._share_at_junction > 0:
            taps.append(self._target)
        if self._share_at_end > 0:
            taps.append(self._last_target)
        return tuple(dict.fromkeys(taps))

    def _make_projector(self, pair: AlignedPair) -> nn.Module:
        source, target = self.student.map_shape(pair.student), self.setup.teacher.map_shape(pair.teacher)
        return projector_between(self.setup, self.config.projector, source, target)


def _teacher_is_right(step: Step) -> Tensor:
    """Return which samples the teacher classifies as labelled: [B], bool."""
    return step.teachers[0].require_logits().argmax(dim=1) == step.batch.hard_labels()
