"""CMI: images invented from the teacher's batch norms, kept apart from each other; no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from kdctl.losses.model_inversion import InversionOptions, LearnsFromInversion
from kdctl.losses.soft_targets import soft_target_kl
from kdctl.protocols.distiller import Losses, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class ContrastiveInversionConfig(InversionOptions):
    """How images are invented, and the temperature of what the student learns from them."""

    temperature: Annotated[float, Gt(0)] = tunable(20.0, 1.0, 20.0, log=True)
    """T of the divergence, which is multiplied by T^2. 20 in the authors' code."""


@methods.register("cmi", label="CMI")
class ContrastiveModelInversion(LearnsFromInversion):
    """The student learns the teacher's predictions on images that were invented from the teacher alone.

    Fang et al., "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI 2021,
    arXiv:2105.08584, eq. 1 to 7:  L = T^2 KL( p_t(x) || p_s(x) ) on random views x of a pool of images, to
    which a round of inversion adds before each epoch (see `losses/model_inversion.py` for its losses and for
    what we do differently).
    """

    Config: ClassVar[type] = ContrastiveInversionConfig
    config: ContrastiveInversionConfig

    def losses(self, step: Step) -> Losses:
        """Return the divergence of predictions."""
        logits, teacher = step.student.require_logits(), step.teachers[0].require_logits()
        divergence = soft_target_kl(logits, teacher, self.config.temperature)
        return Losses(task=None, transfer={"kd": divergence}, logits=logits)
