"""SRRL: give features that the teacher's classifier reads as the teacher's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from torch.nn import functional

from kdctl.losses.stages import last_map
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.protocols.backbone import POOLED
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import Spec, component, tunable


@dataclass(frozen=True, kw_only=True)
class SoftmaxRegressionConfig(Supervision):
    """Form and weights; the paper's own setting is form = 'paper', kd_weight = 0."""

    srrl_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 10.0, log=True)
    """beta: of the distance between logits. 1 in the paper and in the code of protocol `simkd`."""
    feature_weight: Annotated[float, Ge(0)] = tunable(1.0, 0.0, 10.0)
    """alpha: of the distance between features; 0 leaves it out. 1 in both as well."""
    form: Literal["simkd", "paper"] = "simkd"
    """'simkd': project the pooled vector. 'paper': project the last map, then pool."""
    projector: Spec = component("projector", "pointwise")
    """P, from the student's features to the teacher's width; not shipped."""


@methods.register("srrl", label="SRRL")
class SoftmaxRegression(Distiller):
    """Cross-entropy and divergence, plus distances of features and of what the teacher makes of them.

    Yang et al., "Knowledge Distillation via Softmax Regression Representation Learning", ICLR 2021,
    section 3:
    L = ce_weight * CE + kd_weight * KL + feature_weight * mean( (h - h_t)^2 )
      + srrl_weight * mean( (W_t h - z_t)^2 ),
    where h_t is the pooled vector that the teacher's classifier W_t (with its bias) reads, z_t are the
    teacher's logits, and h is the student's counterpart: P(GAP(f_s)) in the form `simkd`, GAP(P(f_s))
    in the form `paper`; P's ReLU makes the difference. Means are over B and features or classes.

    f_s is the map before pooling: after the last 1x1 convolution, where there is one. The paper has
    no divergence. W_t stays as it is: in code that does not freeze it gradients pile up on it unused.
    """

    Config: ClassVar[type] = SoftmaxRegressionConfig
    config: SoftmaxRegressionConfig

    def __init__(self, config: SoftmaxRegressionConfig, setup: Setup) -> None:
        """Build the projector between the features that the classifiers read."""
        super().__init__(config, setup)
        student = setup.student
        self.student_tap = POOLED if config.form == "simkd" else last_map(student)
        self.student_taps = (self.student_tap,)
        self.teacher_taps = ((POOLED,),)
        channels, *size = (
            student.tap_shapes[POOLED] if config.form == "simkd" else student.map_shape(self.student_tap)
        )
        self.size = tuple(size) or (1, 1)  # projectors take maps: a vector is one of a single pixel
        width = setup.teacher.classifier.in_features
        self.projector = setup.make_projector(config.projector, (channels, *self.size), (width, *self.size))
        self._teacher_classifier = (setup.teacher.classifier,)  # in a tuple: not a submodule, never trained

    def losses(self, step: Step) -> Losses:
        """Return the distances of features and logits beside the predictions' terms."""
        teacher = step.teachers[0]
        features = step.student.taps[self.student_tap]
        vectors = self.projector(features.reshape(*features.shape[:2], *self.size)).mean(dim=(2, 3))
        transfer = prediction_terms(self.config, step)
        if self.config.feature_weight > 0:
            target = teacher.taps[POOLED]
            distance = functional.mse_loss(vectors.float(), target.float())
            transfer["srrl_features"] = self.config.feature_weight * distance
        logits = self._teacher_classifier[0](vectors)
        distance = functional.mse_loss(logits.float(), teacher.require_logits().float())
        transfer["srrl"] = self.config.srrl_weight * distance
        return Losses(
            task=task_term(self.config, step), transfer=transfer, logits=step.student.require_logits()
        )
