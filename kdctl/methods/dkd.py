"""DKD: weigh the two parts of the divergence from the teacher apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from kdctl.losses.soft_targets import other_classes_kl, standardised, target_class_kl
from kdctl.losses.supervision import task_term
from kdctl.losses.warmup import linear_warmup
from kdctl.protocols.distiller import Distiller, Losses, Step, methods
from kdctl.recipe.component import option, tunable


@dataclass(frozen=True, kw_only=True)
class DecoupledConfig:
    """Weights, temperature and warm-up.

    The paper chooses beta by the pair of models: 8 for ResNet-32x4 to 8x4 or a ShuffleNet, for
    WRN-40-2 to ShuffleNetV1 and for ResNet-50 to MobileNetV2; 6 for VGG-13 to VGG-8 or MobileNetV2
    and for WRN-40-2 to WRN-16-2 or 40-1; 2 for ResNet-56 to 20 and ResNet-110 to 32.
    """

    alpha: Annotated[float, Ge(0)] = tunable(1.0, 0.1, 4.0, log=True)
    """Of the part about the label's class; 0 leaves it out. 1 in the paper."""
    beta: Annotated[float, Ge(0)] = tunable(8.0, 0.5, 16.0, log=True)
    """Of the part about the other classes; 0 leaves it out. 8 where the authors' code is silent."""
    temperature: Annotated[float, Gt(0)] = tunable(4.0, 1.0, 20.0, log=True)
    """T: what logits are divided by before the softmax. 4 in the paper (ImageNet: 1)."""
    warmup_share: Annotated[float, Ge(0), Le(1)] = 20 / 240
    """Share of training over which both parts grow to full weight. 20 of 240 epochs in the paper."""
    ce_weight: Annotated[float, Ge(0)] = tunable(1.0, 0.0, 1.0)
    """Of the cross-entropy with the labels; 0 leaves it out. 1 in the paper."""
    standardise: bool = option(False, since="0.2.0")
    """Put the logits of both sides on one scale before both parts (arXiv:2403.01427). The authors multiply
    alpha and beta by 9 for most pairs, at T = 2."""

    def __post_init__(self) -> None:
        """Refuse weights with which nothing is distilled."""
        if self.alpha == self.beta == 0:
            raise ValueError("alpha = 0 and beta = 0 leave nothing to distil")


@methods.register("dkd", label="DKD")
class DecoupledKnowledgeDistillation(Distiller):
    """Cross-entropy plus the two parts of the divergence of softened predictions.

    Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv:2203.08679, section 3.3:
    L = ce_weight * CE(z_s, y) + w * T^2 * (alpha * TCKD + beta * NCKD),
    with w rising from 0 to 1 over `warmup_share`. KD is alpha = 1 with beta = 1 - p_t[y], another one
    for each sample: small where the teacher is sure, which is what the paper undoes.

    The authors' w = min(epoch / 20, 1) rises once an epoch, ours with every step: within an epoch the two
    differ by less than 1/20. Their code masks the label's logit by subtracting 1000, we by leaving it
    out; they take log(p) of probabilities, we log-probabilities (see `losses/soft_targets.py`).
    """

    Config: ClassVar[type] = DecoupledConfig
    config: DecoupledConfig

    def losses(self, step: Step) -> Losses:
        """Return the weighted cross-entropy and both parts of the divergence."""
        config, labels = self.config, step.batch.hard_labels()
        logits, teacher_logits = step.student.require_logits(), step.teachers[0].require_logits()
        sides = (logits, teacher_logits)
        if config.standardise:
            sides = (standardised(logits), standardised(teacher_logits))
        growth = linear_warmup(step.progress, config.warmup_share)
        parts = {"tckd": (config.alpha, target_class_kl), "nckd": (config.beta, other_classes_kl)}
        return Losses(
            task=task_term(self.config, step),
            transfer={
                name: weight * growth * part(*sides, labels, config.temperature)
                for name, (weight, part) in parts.items()
                if weight > 0
            },
            logits=logits,
        )
