"""FitNet-MKD: hint the student at one stage of several teachers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt

from kdctl.losses.hinted_stage import HintedByTeachers
from kdctl.losses.several_teachers import SEVERAL, SeveralTeachers, divergences
from kdctl.losses.supervision import task_term
from kdctl.protocols.distiller import Losses, Step, methods
from kdctl.recipe.component import Spec, component, tunable


@dataclass(frozen=True, kw_only=True)
class SeveralHintsConfig(SeveralTeachers):
    """Which stage, through which connectors, with which weight."""

    hint_weight: Annotated[float, Gt(0)] = tunable(100.0, 1.0, 1000.0, log=True)
    """Of the mean of the hints. 100 in the code of AE-KD."""
    stage: Annotated[int, Ge(1)] = 2
    """Which of the student's stages, from 1. 2 in the code of AE-KD and CA-MKD."""
    projector: Spec = component("projector", "pointwise")
    """The connectors, one for each teacher; not shipped."""


@methods.register("fitnet_mkd", label="FitNet-MKD")
class SeveralHints(HintedByTeachers):
    """Cross-entropy plus the mean of divergences and of hints from several teachers.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550, for T' teachers, as the
    papers on several teachers mean it:
    L = ce_weight * CE + kd_weight * 1/T' * sum_k T^2 * KL(p_k || p_s)
      + hint_weight * 1/T' * sum_k mean( (f_k - R_k(f_s))^2 ).

    In the code of AE-KD and CA-MKD the hints are rebuilt into a tensor without gradient before they are
    averaged, so that their FitNet-MKD is AVER; here they have one. Theirs begin in the second epoch.
    """

    Config: ClassVar[type] = SeveralHintsConfig
    num_teachers: ClassVar[tuple[int, int | None]] = SEVERAL
    config: SeveralHintsConfig

    def losses(self, step: Step) -> Losses:
        """Return the mean divergence and the mean hint beside the cross-entropy."""
        divergence = divergences(step, self.config.temperature).mean()
        hint = torch.stack(self.hint_distances(step)).mean()
        return Losses(
            task=task_term(self.config, step),
            transfer={
                "kd": self.config.kd_weight * divergence,
                "hint": self.config.hint_weight * hint,
            },
            logits=step.student.require_logits(),
        )
