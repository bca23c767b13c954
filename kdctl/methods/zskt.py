"""ZSKT: a student follows its teacher wherever a generator finds that they differ; no data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from kdctl.losses.feature_distances import attention_map
from kdctl.losses.learned_generator import GENERATOR, GeneratorOptions, LearnsFromGenerator
from kdctl.losses.soft_targets import soft_target_kl
from kdctl.losses.stages import pair_maps, paired_maps
from kdctl.protocols.distiller import Losses, Match, Setup, Step, methods
from kdctl.recipe.component import tunable
from kdctl.recipe.data_free import EpochWork


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(GeneratorOptions):
    """Weights of the student's loss, and how often it learns."""

    batch_size: Annotated[int, Gt(1), Le(1_000_000)] = 128
    """Images in each update. 128 in the authors' code."""
    student_updates: Annotated[int, Ge(1), Le(1000)] = 10
    """After each update of the generator. 10 in the paper; they cost as much as 10 training steps."""
    attention_weight: Annotated[float, Ge(0)] = tunable(250.0, 1.0, 10000.0, log=True)
    """beta: of the distances of attention maps. 250 in the paper; 0 leaves them out."""
    divergence: Literal["sum", "mean"] = "sum"
    """Over the classes. 'sum': the paper's divergence. 'mean': the authors' code divides it by the number of
    classes, so that attention counts so many times more."""

    def epoch_work(self, image_size: int) -> EpochWork:
        """Return that of all such methods; the generator learns through the student, too."""
        work = super().epoch_work(image_size)
        return replace(work, student=work.student + 2 * self.images_per_epoch)


@methods.register("zskt", label="ZSKT")
class ZeroShotTransfer(LearnsFromGenerator):
    """A generator seeks images on which student and teacher differ, and the student learns from them.

    Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019,
    arXiv:1905.09768, eq. 1 and 2 and algorithm 1. With x = G(z), z ~ N(0, 1), new in each step:
    generator, once:     L_G = -T^2 KL( p_t(x) || p_s(x) );
    student, n_S times:  L_S =  T^2 KL( p_t(x) || p_s(x) )
                               + attention_weight * sum_pairs mean( (a_s - a_t)^2 ),
    with attention maps a of length 1 as in `at`, of all stages.

    The paper has the norm of a_s - a_t, the authors' code its mean square, and so have we. The code clips
    gradients to length 5; ours does not. The student's rate is the recipe's: 2e-3 under Adam in the paper,
    1e-3 for the generator. Images of a step's noise are made anew for each of the student's updates, and are
    the same: the generator does not change between them.
    """

    Config: ClassVar[type] = ZeroShotConfig
    config: ZeroShotConfig

    def __init__(self, config: ZeroShotConfig, setup: Setup) -> None:
        """Read the maps of all stages, if they count."""
        super().__init__(config, setup)
        self.pairs: tuple[tuple[str, str], ...] = ()
        if config.attention_weight > 0:
            self.pairs = pair_maps(setup.student, setup.teacher)
        self.student_taps = tuple(own for own, _ in self.pairs)
        self.teacher_taps = (tuple(other for _, other in self.pairs),)

    def matches(self) -> tuple[Match, ...]:
        """Return the pairs of stages; all count alike."""
        return tuple(Match(student=own, teacher=other, weight=1.0) for own, other in self.pairs)

    def losses(self, step: Step) -> Losses:
        """Return the divergence, negative for the generator; for the student with attention."""
        if step.update.name == GENERATOR:
            images = step.batch.images
            divergence = self._divergence(self.student(images), self.setup.teacher(images))
            return Losses(task=None, transfer={"divergence": -divergence}, logits=None)
        logits = step.student.require_logits()
        terms = {"kd": self._divergence(logits, step.teachers[0].require_logits())}
        if self.pairs:
            distances = [
                functional.mse_loss(attention_map(own), attention_map(other))
                for own, other in paired_maps(step, self.pairs)
            ]
            terms["at"] = self.config.attention_weight * torch.stack(distances).sum()
        return Losses(task=None, transfer=terms, logits=logits)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        divergence = soft_target_kl(student, teacher, self.config.temperature)
        return divergence / student.shape[1] if self.config.divergence == "mean" else divergence
