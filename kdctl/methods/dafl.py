"""DAFL: a generator makes what the teacher takes for data of all classes; no data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from kdctl.losses.learned_generator import GENERATOR, GeneratorOptions, LearnsFromGenerator
from kdctl.losses.soft_targets import soft_target_kl
from kdctl.protocols.backbone import POOLED
from kdctl.protocols.distiller import Losses, Setup, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class DataFreeLearningConfig(GeneratorOptions):
    """Weights of what the generator is asked for; defaults are the authors' for CIFAR-100."""

    batch_size: Annotated[int, Gt(1), Le(1_000_000)] = 1024
    """Images in each update. 1024 in the authors' code; the mean prediction is over them."""
    noise_size: Annotated[int, Gt(0), Le(100_000)] = 1000
    """Numbers of noise that an image is made of."""
    one_hot_weight: Annotated[float, Ge(0)] = tunable(0.5, 0.01, 10.0, log=True)
    """Of the cross-entropy with the teacher's own decision: images it is sure of."""
    entropy_weight: Annotated[float, Ge(0)] = tunable(20.0, 0.1, 100.0, log=True)
    """Of the negative entropy of the mean prediction: all classes alike."""
    activation_weight: Annotated[float, Ge(0)] = tunable(0.1, 0.001, 10.0, log=True)
    """Of the negative mean of the teacher's absolute features: images that excite it."""

    def __post_init__(self) -> None:
        """Refuse a generator that nothing trains."""
        if self.one_hot_weight == self.entropy_weight == self.activation_weight == 0:
            raise ValueError(
                "one_hot_weight, entropy_weight and activation_weight are 0: nothing trains the generator"
            )


@methods.register("dafl", label="DAFL")
class DataFreeLearning(LearnsFromGenerator):
    """A generator makes images that excite the teacher, each of one class; the student learns from them.

    Chen et al., "Data-Free Learning of Student Networks", ICCV 2019, arXiv:1904.01186, eq. 3 to 8. With
    x = G(z), y = argmax z_t(x), f the teacher's pooled features and p the mean of p_t(x) over the batch:
    generator:  L_G = one_hot_weight * CE(z_t, y) - activation_weight * mean|f|
                      + entropy_weight * sum_k p_k log10 p_k;
    student:    L_S = T^2 KL( p_t(x) || p_s(x) ).

    The paper sums |f| and divides the entropy by the number of classes; its code has the means, and the
    logarithm to base 10, for which the weights are. The code trains both on one forward pass; here the
    student learns from what the generator makes after its update. Its channels have mean 0 and deviation 1.
    """

    scales_channels = False
    Config: ClassVar[type] = DataFreeLearningConfig
    config: DataFreeLearningConfig

    def __init__(self, config: DataFreeLearningConfig, setup: Setup) -> None:
        """Refuse a teacher without features."""
        super().__init__(config, setup)
        self._num_features = setup.teacher.tap_shapes[POOLED][0]

    def losses(self, step: Step) -> Losses:
        """Return what the generator is asked for, or the student's divergence."""
        if step.update.name == GENERATOR:
            return Losses(task=None, transfer=self._wanted(step.batch.images), logits=None)
        logits, teacher = step.student.require_logits(), step.teachers[0].require_logits()
        divergence = soft_target_kl(logits, teacher, self.config.temperature)
        return Losses(task=None, transfer={"kd": divergence}, logits=logits)

    def _wanted(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.setup.teacher.observe(images, (POOLED,))
        logits, features = outputs.require_logits().float(), outputs.taps[POOLED].float()
        terms = {
            "one_hot": self.config.one_hot_weight * functional.cross_entropy(logits, logits.argmax(dim=1)),
            "activation": -self.config.activation_weight
            * features.abs().sum(dim=1).mean()
            / self._num_features,
            "entropy": self.config.entropy_weight * _negative_entropy(logits),
        }
        return {name: term for name, term in terms.items() if getattr(self.config, f"{name}_weight") > 0}


def _negative_entropy(logits: Tensor) -> Tensor:
    """Return sum_k p_k log10 p_k of the mean p of the predictions of logits [B, K]: 0 at most."""
    log_mean = torch.logsumexp(functional.log_softmax(logits, dim=1), dim=0) - math.log(len(logits))
    return (log_mean.exp() * log_mean).sum() / math.log(10)
