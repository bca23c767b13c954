"""FitNet: hint the student at the teacher's features of one stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.features_first import FeaturesFirst
from kdctl.losses.stages import Reading, at_one_size, map_of, pair_stages, projector_between, require_stage
from kdctl.losses.supervision import Supervision
from kdctl.protocols.distiller import Setup, Step, methods
from kdctl.protocols.maps import shared_size
from kdctl.recipe.component import Spec, component, option, tunable
from kdctl.text import plural


@dataclass(frozen=True, kw_only=True)
class FitNetConfig(Supervision):
    """Which stage, through which connector, with which weight."""

    fitnet_weight: Annotated[float, Gt(0)] = tunable(100.0, 1.0, 1000.0, log=True)
    """Of the hint. 100 in the code of both protocols."""
    stage: Annotated[int, Ge(1)] = 1
    """Which pair of stages, from 1. 1 in the code of protocol `simkd`, 2 in that of `crd`."""
    projector: Spec = component("projector", "pointwise")
    """R, the connector: training's alone, not shipped. `linear` reaches negative features as well."""
    maps: Reading = option("activated", since="0.2.0")
    """Of wide ResNets: 'activated', or 'raw', the sums of residuals before batch norm and ReLU. 'raw' is the
    reading of the code of protocol `crd`, which sets it."""
    hint_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the epochs spent on the hint alone before the hint is dropped: the paper's two stages.

    0: the hint stands beside the other terms in all epochs, as in the code of both protocols.
    """


@methods.register("fitnet", label="FitNet")
class FitNet(FeaturesFirst):
    """Cross-entropy and divergence, plus the distance of the features of one stage.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550, eq. 3 and 4, in one stage:
    L = ce_weight * CE + kd_weight * KL + fitnet_weight * mean( (f_t - R(f_s))^2 ).

    The paper trains the student up to the hint and R on the last term first, the whole student on
    the other two after: that is `hint_share` above 0. The papers that compare with it train on all at
    once, which is the default. The mean is over B, C, H and W; the paper halves a sum. Its KL starts
    with weight 4, which falls to 1; ours stays. Public code chooses the connector's kernel and stride
    by the two maps' sizes, and has none for some pairs; we pool the larger map to the smaller, and R
    only changes channels. For maps of equal size the two are the same: 1x1 convolution, batch norm,
    ReLU.
    """

    Config: ClassVar[type] = FitNetConfig
    config: FitNetConfig
    phase_names: ClassVar[tuple[str, str]] = ("hint", "prediction")

    def __init__(self, config: FitNetConfig, setup: Setup) -> None:
        """Build the connector between the two maps.

        Raises:
            KdctlError: there are fewer pairs of stages than that.
        """
        super().__init__(config, setup)
        pairs = pair_stages(setup.student, setup.teacher)
        require_stage(config.stage, len(pairs), f"these models have {plural(len(pairs), 'pair')} of stages")
        own, other = pairs[config.stage - 1]
        self.student_tap = map_of(setup.student, own, config.maps)
        self.teacher_tap = map_of(setup.teacher, other, config.maps)
        source = setup.student.map_shape(self.student_tap)
        target = setup.teacher.map_shape(self.teacher_tap)
        self._target = setup.teacher.tap_at(self.teacher_tap, shared_size(source, target))
        self.projector = projector_between(setup, config.projector, source, target)
        self.compare((self.student_tap,), (self._target,))

    def first_share(self) -> float:
        """Return the share of the paper's first stage."""
        return self.config.hint_share

    def features(self, step: Step) -> dict[str, Tensor]:
        """Return the hint: the mean squared distance."""
        return {"fitnet": self.config.fitnet_weight * self._distance(step)}

    def connectors(self) -> dict[str, nn.Module]:
        """Return R, which goes with the hint."""
        return {"connector": self.projector}

    def _distance(self, step: Step) -> Tensor:
        hinted, hint = at_one_size(step.student.taps[self.student_tap], step.teachers[0].taps[self._target])
        return functional.mse_loss(self.projector(hinted).float(), hint.float())
