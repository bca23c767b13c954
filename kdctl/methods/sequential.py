"""Sequential: align the features first, train a new classifier on the frozen encoder after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from kdctl.losses.feature_loss import FeatureLoss
from kdctl.losses.projected_classifier import ProjectedClassifier
from kdctl.losses.stages import projector_between
from kdctl.losses.supervision import label_loss
from kdctl.protocols.backbone import POOLED, GlobalAveragePool
from kdctl.protocols.distiller import Distiller, Losses, Phase, Setup, Step, methods
from kdctl.protocols.maps import pool_to, shared_size
from kdctl.recipe.component import Spec, component

_FEATURES, _CLASSIFIER = "features", "classifier"
"""The two phases."""


@dataclass(frozen=True, kw_only=True)
class SequentialConfig(FeatureLoss):
    """What the paper leaves open about training the classifier anew."""

    feature: Literal["student", "projected"] = "student"
    """What the new classifier reads: the student's own features (the plain student is shipped), or
    the projected ones (encoder, projector and classifier are)."""
    features_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Share of the epochs for the features; the classifier gets the rest. The paper does not say."""
    projector: Spec = component("projector", "bottleneck")
    """Maps the student's last feature map to the teacher's width, as in SimKD."""


@methods.register("sequential", label="Sequential")
class SequentialTraining(Distiller):
    """Trains the encoder on the teacher's features, then a new classifier on the frozen encoder's.

    The counterpart that Chen et al., "Knowledge Distillation with the Reused Teacher Classifier",
    CVPR 2022, arXiv:2203.14001, Table 4, hold against SimKD: its loss, eq. 2, in the first phase,
    L = mean( (f_t - P(f_s))^2 ), cross-entropy with the labels in the second.

    There is no code. On which features the classifier sits, how long and with which learning rate it
    is trained is not said; the low numbers for students whose width is not the teacher's (51.97 for
    ResNet-8x4) speak for the student's own. In the form `student` everything after the student's last
    map is trained anew: its last 1x1 convolution too, where it has one. What is frozen runs in eval mode.
    """

    Config: ClassVar[type] = SequentialConfig
    config: SequentialConfig

    def __init__(self, config: SequentialConfig, setup: Setup) -> None:
        """Build the projector, and a classifier of its width if that is what it reads."""
        super().__init__(config, setup)
        source = setup.student.map_shape(setup.student.final_tap)
        target = setup.teacher.map_shape(setup.teacher.final_tap)
        self.size = shared_size(source, target)
        self._target = setup.teacher.tap_at(setup.teacher.final_tap, self.size)
        self.student_taps = (setup.student.final_tap,)
        self.reads_student_logits = False  # they are made here, from the frozen map
        self.reads_teacher_logits = False
        self.projector = projector_between(setup, config.projector, source, target)
        self.new_classifier = (
            nn.Sequential(GlobalAveragePool(), nn.Linear(target[0], setup.num_classes))
            if config.feature == "projected"
            else None
        )
        self.arrange()

    @classmethod
    def ships_student(cls, config: SequentialConfig) -> bool:
        """Whether the classifier sits on the student's own features."""
        return config.feature == "student"

    def phases(self) -> tuple[Phase, ...]:
        """Return one phase for the features and one for the classifier."""
        share = self.config.features_share
        return (Phase(name=_FEATURES, share=share), Phase(name=_CLASSIFIER, share=1 - share))

    def arrange(self) -> None:
        """Read the teacher in the first phase alone."""
        self.teacher_taps = ((self._target,) if self._aligning else (),)

    def losses(self, step: Step) -> Losses:
        """Return the distance of the projected map in the first phase, cross-entropy in the second."""
        features = step.student.taps[self.student.final_tap]
        projects = self._aligning or self.new_classifier is not None
        projected = self.projector(pool_to(features, self.size)) if projects else features
        if not self._aligning:
            logits = self._classify(projected)
            return Losses(task=label_loss(logits, step.batch), logits=logits)
        target = step.teachers[0].taps[self._target]
        with torch.no_grad():
            logits = self._classify(features if self.new_classifier is None else projected)
        return Losses(task=None, transfer=self.config.distances(projected, target), logits=logits)

    def inference_model(self) -> nn.Module:
        """Return the student; or its encoder, the projector and the new classifier."""
        if self.new_classifier is None:
            return self.student
        channels = self.setup.teacher.tap_shapes[self.setup.teacher.final_tap][0]
        return ProjectedClassifier(
            self.student,
            self.student.final_tap,
            self.projector,
            self.new_classifier,
            target=(channels, *self.size),
            links={POOLED: (channels,)},
        )

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Return the classifiers in the first phase; all but the new classifier in the second."""
        own = self.student.pieces_after(self.student.final_tap)
        new: dict[str, nn.Module] = {"new classifier": self.new_classifier} if self.new_classifier else {}
        if self._aligning:
            return {**own, **new}
        encoder = {name: link for name, link in self.student.links.items() if name not in own}
        return {**encoder, "projector": self.projector, **(own if new else {})}

    @property
    def _aligning(self) -> bool:
        return self.phase.name == _FEATURES

    def _classify(self, features: Tensor) -> Tensor:
        """Return logits [B, K] for the maps that the classifier reads."""
        classifier = self.new_classifier or self.student.tail(self.student.final_tap)
        return classifier(features)
