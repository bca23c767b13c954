"""CMI+SimKD: the teacher's features on invented images, and its classifier; no data."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn

from kdctl.losses.feature_distances import l2_distance
from kdctl.losses.model_inversion import InversionOptions, LearnsFromInversion
from kdctl.losses.projected_classifier import ProjectedClassifier, links_after
from kdctl.losses.stages import projector_between
from kdctl.protocols.distiller import Losses, Setup, Step, methods
from kdctl.protocols.maps import Size, pool_to, shared_size
from kdctl.recipe.component import Spec, component, tunable


@dataclass(frozen=True, kw_only=True)
class InversionSimKdConfig(InversionOptions):
    """How images are invented, and SimKD's projector and weight."""

    projector: Spec = component("projector", "bottleneck")
    """Maps the student's last feature map to the teacher's width; part of the shipped model."""
    simkd_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 100.0, log=True)
    """Of the mean squared distance of features. 1 in SimKD."""


@methods.register("cmi_simkd", label="CMI+SimKD")
class InversionSimKd(LearnsFromInversion):
    """The student learns the teacher's last feature map on invented images, and ships its classifier.

    Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022, arXiv:2203.14001,
    Table 7, with the images of arXiv:2105.08584: L = simkd_weight * mean( (f_t(x) - P(f_s(x)))^2 ), eq. 2, on
    the pool of `cmi`. There is no code; where images are to show what the student does not know, its
    prediction is the one that is shipped, by the teacher's classifier.
    """

    Config: ClassVar[type] = InversionSimKdConfig
    config: InversionSimKdConfig

    def __init__(self, config: InversionSimKdConfig, setup: Setup) -> None:
        """Build the projector between the last maps."""
        super().__init__(config, setup)
        student, teacher = setup.student, setup.teacher
        own, other = student.map_shape(student.final_tap), teacher.map_shape(teacher.final_tap)
        self.size: Size = shared_size(own, other)
        self.student_taps = (student.final_tap,)
        self.teacher_taps = ((teacher.tap_at(teacher.final_tap, self.size),),)
        self.reads_student_logits = self.reads_teacher_logits = False
        self.projector = projector_between(setup, config.projector, own, other)
        # In a tuple: no submodule, so never trained, saved or put into training mode.
        self._tail = (teacher.tail(teacher.final_tap),)

    @classmethod
    def ships_student(cls, config: InversionSimKdConfig) -> bool:
        """The student's own classifier is not trained."""
        return False

    def predictions(self, images: Tensor) -> Tensor:
        """Return the teacher's classifier's logits of the student's projected features."""
        tap = self.setup.student.final_tap
        features = self.student.observe(images, (tap,), with_logits=False).taps[tap]
        return self._tail[0](self.projector(pool_to(features, self.size)))

    def losses(self, step: Step) -> Losses:
        """Return the distance of the projected map from the teacher's."""
        (tap,), ((other,),) = self.student_taps, self.teacher_taps
        projected = self.projector(pool_to(step.student.taps[tap], self.size))
        distance = l2_distance(projected, step.teachers[0].taps[other], None)
        with torch.no_grad():
            logits = self._tail[0](projected)
        return Losses(task=None, transfer={"simkd": self.config.simkd_weight * distance}, logits=logits)

    def inference_model(self) -> nn.Module:
        """Return the student's encoder, the projector, and a copy of the teacher's classifier."""
        teacher, tap = self.setup.teacher, self.setup.teacher.final_tap
        return ProjectedClassifier(
            self.student,
            self.student.final_tap,
            self.projector,
            copy.deepcopy(self._tail[0]),
            target=(teacher.map_shape(tap).channels, *self.size),
            links=links_after(teacher, tap, self.size),
            stages=teacher.stage_taps,
        )
