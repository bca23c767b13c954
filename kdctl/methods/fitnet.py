"""FitNet: hint the student at the teacher's features of one stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.losses.alignment import at_one_size
from kdctl.losses.spatial import shared_size
from kdctl.losses.stages import pair_stages
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import Spec, component, tunable


@dataclass(frozen=True, kw_only=True)
class FitNetConfig(Supervision):
    """Which stage, through which connector, with which weight."""

    fitnet_weight: Annotated[float, Gt(0)] = tunable(100.0, 1.0, 1000.0, log=True)
    """Of the hint. 100 in the code of both protocols."""
    stage: Annotated[int, Ge(1)] = 1
    """Which pair of stages, from 1. 1 in the code of protocol `simkd`, 2 in that of `crd`."""
    projector: Spec = component("projector", "pointwise")
    """R, the connector: training's alone, not shipped. `linear` reaches negative features as well."""


@methods.register("fitnet", label="FitNet")
class FitNet(Distiller):
    """Cross-entropy and divergence, plus the distance of the features of one stage.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550, eq. 3, in one stage:
    L = ce_weight * CE + kd_weight * KL + fitnet_weight * mean( (f_t - R(f_s))^2 ).

    The paper trains on the hint first and on the labels after; the papers that compare with it train
    on both at once, as we do. The mean is over B, C, H and W. Public code chooses the connector's
    kernel and stride by the two maps' sizes, and has none for some pairs; we pool the larger map to the
    smaller, and R only changes channels. For maps of equal size the two are the same: 1x1
    convolution, batch norm, ReLU.
    """

    Config: ClassVar[type] = FitNetConfig
    config: FitNetConfig

    def __init__(self, config: FitNetConfig, setup: Setup) -> None:
        """Build the connector between the two maps.

        Raises:
            KdctlError: there are fewer pairs of stages than that.
        """
        super().__init__(config, setup)
        pairs = pair_stages(setup.student, setup.teacher)
        if config.stage > len(pairs):
            raise KdctlError(
                f"[method] stage = {config.stage}: these models have {len(pairs)} pairs of stages.",
                f"set method.stage to a number from 1 to {len(pairs)}.",
            )
        self.student_tap, self.teacher_tap = pairs[config.stage - 1]
        self.student_taps = (self.student_tap,)
        self.teacher_taps = ((self.teacher_tap,),)
        self.reads_teacher_logits = config.kd_weight > 0
        source = setup.student.tap_shapes[self.student_tap]
        target = setup.teacher.tap_shapes[self.teacher_tap]
        size = shared_size(source, target)
        self.projector = setup.make_projector(config.projector, (source[0], *size), (target[0], *size))

    def losses(self, step: Step) -> Losses:
        """Return the mean squared distance beside the predictions' terms."""
        hinted, hint = at_one_size(
            step.student.taps[self.student_tap], step.teachers[0].taps[self.teacher_tap]
        )
        distance = functional.mse_loss(self.projector(hinted).float(), hint.float())
        return Losses(
            task=task_term(self.config, step),
            transfer={
                **prediction_terms(self.config, step),
                "fitnet": self.config.fitnet_weight * distance,
            },
            logits=step.student.require_logits(),
        )
