"""SimKD: reuse the teacher's classifier and align the features it reads."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.spatial import pool_to, shared_size
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import Spec, component


@dataclass(frozen=True, kw_only=True)
class SimKdConfig:
    """What SimKD leaves open: the projector."""

    projector: Spec = component("projector", "bottleneck")
    """Maps the student's last feature map to the teacher's width; part of the shipped model."""


class ReusedClassifier(nn.Module):
    """Student encoder, projector and the teacher's classifier: what SimKD ships."""

    def __init__(
        self, encoder: nn.Module, projector: nn.Module, classifier: nn.Module, size: tuple[int, int]
    ) -> None:
        """`size` is the (height, width) that student features are pooled to before the projector."""
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.classifier = classifier
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] of normalised images [B, 3, H, W]."""
        return self.classifier(self.projector(pool_to(self.encoder(images), self.size)))


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
    """

    Config: ClassVar[type] = SimKdConfig
    ships_student = False
    config: SimKdConfig

    def __init__(self, config: SimKdConfig, setup: Setup) -> None:
        """Build the projector between the two last maps."""
        super().__init__(config, setup)
        self.student_tap = setup.student.final_tap
        self.teacher_tap = setup.teacher.final_tap
        self.student_taps = (self.student_tap,)
        self.teacher_taps = ((self.teacher_tap,),)
        self.reads_student_logits = False
        self.reads_teacher_logits = False
        source = setup.student.tap_shapes[self.student_tap]
        target = setup.teacher.tap_shapes[self.teacher_tap]
        self.size = shared_size(source, target)
        self.projector = setup.make_projector(
            config.projector, (source[0], *self.size), (target[0], *self.size)
        )
        self._reused = (setup.teacher.tail(self.teacher_tap),)  # in a tuple: not a submodule, never trained

    def losses(self, step: Step) -> Losses:
        """Return the mean squared distance of the aligned maps."""
        projected = self.projector(pool_to(step.student.taps[self.student_tap], self.size))
        target = pool_to(step.teachers[0].taps[self.teacher_tap], self.size)
        distance = functional.mse_loss(projected.float(), target.float())
        with torch.no_grad():
            logits = self._reused[0](projected.detach())
        return Losses(task=None, transfer={"simkd": distance}, logits=logits)

    def inference_model(self) -> nn.Module:
        """Return student encoder, projector and a copy of the teacher's classifier."""
        classifier = copy.deepcopy(self._reused[0])
        return ReusedClassifier(self.student.encoder(self.student_tap), self.projector, classifier, self.size)
