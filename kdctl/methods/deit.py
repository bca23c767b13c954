"""DeiT: distillation through a token of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from kdctl.losses.soft_targets import soft_target_kl
from kdctl.losses.supervision import label_loss
from kdctl.protocols.backbone import HEADS
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class DeitConfig:
    """How labels and teacher are weighed, and whether the teacher's label is hard."""

    alpha: Annotated[float, Ge(0), Le(1)] = tunable(0.5, 0.1, 0.9)
    """Share of the teacher; the labels have the rest. 1/2 in the paper for hard labels; 0.1 for soft ones."""
    hard: bool = True
    """The teacher's likeliest class is a label; false: its softened predictions are matched, by KL."""
    temperature: Annotated[float, Gt(0)] = tunable(1.0, 1.0, 10.0)
    """Of softened predictions; 3 in the paper's comparison with soft labels, 1 in the code's default."""


@methods.register("deit", label="DeiT")
class DeitDistillation(Distiller):
    """Cross-entropy on the class token's head, the teacher's label on the distillation token's head.

    Touvron et al., "Training data-efficient image transformers & distillation through attention", ICML 2021,
    arXiv:2012.12877, eq. 3 (hard, with alpha for its 1/2) and eq. 2 (soft):
    L = (1 - alpha) * CE(z_cls, y) + alpha * CE(z_dist, argmax z_t),  or  alpha * T^2 * KL(t || dist).

    The teacher sees the same image as the student, mixed as it may be. A student with one head gets both
    terms on it, as in the paper's rows without the token. At test time the two heads' logits are averaged.
    Ours: the KL is summed over classes and averaged over the batch; the authors' code also divides it by
    the number of classes.
    """

    Config: ClassVar[type] = DeitConfig
    config: DeitConfig

    def __init__(self, config: Any, setup: Setup) -> None:
        """Read both heads, where there are two."""
        super().__init__(config, setup)
        self._has_two_heads = HEADS in setup.student.tap_shapes
        if self._has_two_heads:
            self.student_taps = (HEADS,)

    def losses(self, step: Step) -> Losses:
        """Return the term of the labels and that of the teacher."""
        config, logits = self.config, step.student.require_logits()
        own, taught = self._heads(step, logits)
        teacher = step.teachers[0].require_logits().float()
        distance = (
            functional.cross_entropy(taught.float(), teacher.argmax(dim=1))
            if config.hard
            else soft_target_kl(taught, teacher, config.temperature)
        )
        return Losses(
            task=(1 - config.alpha) * label_loss(own, step.batch),
            transfer={"token": config.alpha * distance},
            logits=logits,
        )

    def _heads(self, step: Step, logits: Tensor) -> tuple[Tensor, Tensor]:
        if not self._has_two_heads:
            return logits, logits
        own, taught = step.student.taps[HEADS].chunk(2, dim=1)
        return own, taught
