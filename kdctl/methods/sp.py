"""SP: find the same samples alike as the teacher does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch.nn import functional

from kdctl.losses.feature_distances import similarity_rows
from kdctl.losses.stages import Reading, map_of
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import option, tunable


@dataclass(frozen=True, kw_only=True)
class SimilarityPreservingConfig(Supervision):
    """Weight of the distance between similarity matrices."""

    sp_weight: Annotated[float, Gt(0)] = tunable(3000.0, 30.0, 30000.0, log=True)
    """gamma: 3000 in the paper and both protocols."""
    maps: Reading = option("activated", since="0.2.0")
    """Of wide ResNets: 'activated', or 'raw', the sums of residuals before batch norm and ReLU. 'raw' is the
    reading of the code of protocol `crd`, which sets it."""


@methods.register("sp", label="SP")
class SimilarityPreserving(Distiller):
    """Cross-entropy and divergence, plus the distance of the similarities within the batch.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv:1907.09682, eq. 1 to 4:
    L = ce_weight * CE + kd_weight * KL + sp_weight / B^2 * || G_t - G_s ||_F^2,
    where G is F F^T of the flattened last maps F [B, C * H * W], each row divided by its L2 norm.

    As in the code of both protocols the last map before pooling is used alone. Maps need not have
    the same shape, as only samples are compared. A row has length 1 whatever B is, so the term
    shrinks as the batch grows: the weight belongs to a batch size (64 in both protocols).
    """

    Config: ClassVar[type] = SimilarityPreservingConfig
    config: SimilarityPreservingConfig

    def __init__(self, config: SimilarityPreservingConfig, setup: Setup) -> None:
        """Nothing is trained besides the student."""
        super().__init__(config, setup)
        self._own = map_of(setup.student, setup.student.final_tap, config.maps)
        self._other = map_of(setup.teacher, setup.teacher.final_tap, config.maps)
        self.student_taps = (self._own,)
        self.teacher_taps = ((self._other,),)
        self.reads_teacher_logits = config.kd_weight > 0

    def losses(self, step: Step) -> Losses:
        """Return the mean squared distance of the similarities beside the predictions' terms."""
        student = similarity_rows(step.student.taps[self._own])
        teacher = similarity_rows(step.teachers[0].taps[self._other])
        distance = functional.mse_loss(student, teacher)
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "sp": self.config.sp_weight * distance},
            logits=step.student.require_logits(),
        )
