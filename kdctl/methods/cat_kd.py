"""CAT-KD: see each class where the teacher sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from kdctl.losses.stages import last_map
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import full_precision, unit_vectors
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.protocols.maps import pool_to, shared_size
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class ClassAttentionConfig(Supervision):
    """Size, scale and weight of the class activation maps."""

    kd_weight: Annotated[float, Ge(0)] = 0.0
    """Of T^2 * KL(teacher || student); the paper does without."""
    cat_weight: Annotated[float, Gt(0)] = tunable(15.0, 0.5, 1000.0, log=True)
    """beta: of the distance. The authors choose it by pair, from 0.7 (ResNet-56 to 20) over 15 (ResNet-32x4
    to 8x4) to 600 (ResNet-32x4 to a ShuffleNet, with normalised maps); protocol `crd` has their values."""
    cat_size: Annotated[int, Gt(0), Le(1024)] = 2
    """Height and width that maps are averaged to before they are compared. 2 in the authors' settings,
    4 for ShuffleNets."""
    normalise: bool = False
    """Divide each class's map by its length first. The paper does; its code does not for ResNets and WRNs,
    where the scale of the maps is transferred as well."""


@methods.register("cat_kd", label="CAT-KD")
class ClassAttentionTransfer(Distiller):
    """Cross-entropy and divergence, plus the distance of the class activation maps.

    Guo et al., "Class Attention Transfer Based Knowledge Distillation", CVPR 2023, arXiv:2304.12777, eq. 3
    to 6:  L = ce_weight * CE + kd_weight * KL + cat_weight * mean_{B,K,h,w}( (A_s - A_t)^2 ),
    A = W f, with f the map before pooling (behind the last 1x1 convolution, where there is one), averaged
    to h x w, and W the weights of the classifier: one map for each class. Its mean over positions is the
    logit, but for the bias.

    Classes are the same on both sides, so no projector is needed. The authors move the classifier before
    the pooling and drop its bias, of teacher and student. Pooling and classifier commute, so our models
    stay as they are: maps have no bias, predictions do, and the plain student is shipped.
    """

    Config: ClassVar[type] = ClassAttentionConfig
    config: ClassAttentionConfig

    def __init__(self, config: ClassAttentionConfig, setup: Setup) -> None:
        """Nothing is trained besides the student."""
        super().__init__(config, setup)
        student, teacher = setup.student, setup.teacher
        self._own, other = last_map(student), last_map(teacher)
        smaller = shared_size(student.map_shape(self._own), teacher.map_shape(other))
        self.size = shared_size(smaller, (config.cat_size, config.cat_size))
        self._other = teacher.tap_at(other, self.size)
        self.student_taps = (self._own,)
        self.teacher_taps = ((self._other,),)
        self.reads_teacher_logits = config.kd_weight > 0

    def losses(self, step: Step) -> Losses:
        """Return the distance of class activation maps beside the predictions' terms."""
        own = self._activations(self.student, step.student.taps[self._own])
        other = self._activations(self.setup.teacher, step.teachers[0].taps[self._other])
        distance = functional.mse_loss(own, other)
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "cat_kd": self.config.cat_weight * distance},
            logits=step.student.require_logits(),
        )

    def _activations(self, model: Backbone, features: Tensor) -> Tensor:
        """Return the class activation maps of the last map [B, C, H, W]: [B, K, h * w], fp32."""
        averaged = pool_to(features.float(), self.size).flatten(2)
        with full_precision(averaged):
            activations = model.classifier.weight.float() @ averaged
        return unit_vectors(activations) if self.config.normalise else activations
