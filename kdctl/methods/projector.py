"""SRD: a linear projector, normalised features and the logarithm of a sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.feature_distances import log_sum_distance
from kdctl.losses.soft_targets import other_classes_kl, target_class_kl
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import pooled_vectors, unit_vectors
from kdctl.losses.warmup import linear_warmup
from kdctl.protocols.backbone import POOLED
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import Spec, component, option, tunable

CORRELATION = "input_output_correlation"
SINGULAR_VALUE = "singular_value_"
"""Names of what is told of the projector; the second is followed by the rank of the value, from 1."""

_MOST_VALUES = 16
"""Singular values that are told of an epoch, at even ranks from the first to the last."""

_LEAST_VARIANCE = 1e-4
"""Added to the variance of a feature over the batch. From the authors' code."""


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(Supervision):
    """The three choices of the paper, and the weights.

    The authors' code for ImageNet: cross-entropy, 2 times the distance, and KL with temperature 1. That
    for CIFAR-100 was not released; the temperature 4 is the protocols'.
    """

    projector_weight: Annotated[float, Gt(0)] = tunable(2.0, 0.1, 10.0, log=True)
    """Of the distance between features. 2 in the authors' code."""
    projector: Spec = component("projector", "linear")
    """From the student's pooled vector to the teacher's width, as maps of a single pixel; not shipped."""
    norm: Literal["batch", "l2", "none"] = "batch"
    """'batch': each feature over the batch, the paper's choice. 'l2': each vector to length 1."""
    power: Annotated[float, Ge(1), Le(100)] = 4.0
    """Of the differences in the sum: how much the largest dominate. 4 in the paper."""
    dkd_weight: Annotated[float, Ge(0)] = tunable(0.0, 0.0, 2.0)
    """Of DKD's two terms, instead of KL (set kd_weight = 0) in the paper's best rows; 0 leaves them out."""
    dkd_alpha: Annotated[float, Ge(0)] = 1.0
    """DKD's alpha. The paper does not say which; 1 is DKD's own."""
    dkd_beta: Annotated[float, Ge(0)] = 8.0
    """DKD's beta. The paper does not say which; 8 is DKD's own for most pairs."""
    dkd_warmup_share: Annotated[float, Ge(0), Le(1)] = 20 / 240
    """Share of training over which DKD's terms grow to full weight. DKD's own."""

    watch_projector: bool = option(False, since="0.2.0")
    """Tell the linear projector's singular values after each epoch, and how much its outputs correlate with
    its inputs: for the figures `singular_values` and `projector_correlation`. Changes no other number."""

    @property
    def trains_classifier(self) -> bool:
        """Whether a term reaches the student's predictions; DKD's do."""
        return super().trains_classifier or self.dkd_weight > 0


def standardise(features: Tensor) -> Tensor:
    """Return features [B, D] with mean 0 and variance 1 over the batch, in fp32; B is at least 2."""
    return functional.batch_norm(features.float(), None, None, training=True, eps=_LEAST_VARIANCE)


@torch.no_grad()
def mean_correlation(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return Pearson's correlation over the batch of each input feature [B, D] with each output [B, E].

    The mean of its absolute values over all pairs, 0-dim: 1 where each output repeats each input.
    """
    own, other = standardise(inputs), standardise(outputs)
    return (own.T @ other / len(inputs)).abs().mean()


_NORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "batch": standardise,
    "l2": unit_vectors,
    "none": Tensor.float,
}
"""What is done to the vectors [B, D] of both networks, alike."""


@methods.register("projector", label="SRD", aliases=("simple-recipe",))
class ProjectorDistillation(Distiller):
    """Cross-entropy and divergence, plus a soft maximum of the differences of normalised features.

    Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024,
    arXiv:2303.11098, with the name of its code (Simple Recipe Distillation):
    L = ce_weight * CE + kd_weight * KL + projector_weight * log( mean_b sum_d |n(P(x_s)) - n(x_t)|^power )
      + dkd_weight * DKD,
    where x are the pooled vectors, P is linear, and n standardises each feature over the batch, the
    teacher's as well (batch norm without scale and shift; no running statistics).

    The authors' code sums over the batch: that adds log(B) and changes no gradient. It has no guard
    inside the logarithm, whose gradient explodes as the sum goes to 0; ours is 1e-5. Its gradient does not
    depend on the scale of the sum, so the weight means the same for any width and norm. The code
    for transformers has another loss (of the cross-correlation) under the same name: not this one.
    """

    Config: ClassVar[type] = ProjectorConfig
    config: ProjectorConfig

    def __init__(self, config: ProjectorConfig, setup: Setup) -> None:
        """Build the projector between the pooled vectors."""
        super().__init__(config, setup)
        self.student_taps = (POOLED,)
        self.teacher_taps = ((POOLED,),)
        self.reads_teacher_logits = config.kd_weight > 0 or config.dkd_weight > 0
        (source,), (target,) = setup.student.tap_shapes[POOLED], setup.teacher.tap_shapes[POOLED]
        self.projector = setup.make_projector(config.projector, (source, 1, 1), (target, 1, 1))

    def losses(self, step: Step) -> Losses:
        """Return the distance between features beside the predictions' terms."""
        config, normalise = self.config, _NORMS[self.config.norm]
        student, teacher = pooled_vectors(step)
        projected = self.projector(student[:, :, None, None]).flatten(1)
        distance = log_sum_distance(normalise(projected), normalise(teacher), power=config.power)
        transfer = {**prediction_terms(config, step), "projector": config.projector_weight * distance}
        if config.dkd_weight > 0:
            transfer["dkd"] = self._decoupled(step)
        metrics = {CORRELATION: mean_correlation(student, projected)} if config.watch_projector else {}
        return Losses(
            task=task_term(config, step),
            transfer=transfer,
            logits=step.student.require_logits(),
            metrics=metrics,
        )

    def epoch_metrics(self) -> Mapping[str, float]:
        """Return the singular values of the linear layer, where they are asked for and there is one."""
        layers = [layer for layer in self.projector.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if not self.config.watch_projector or len(layers) != 1:
            return {}
        weight = layers[0].weight.detach().flatten(1).double().cpu()
        if not weight.isfinite().all():  # the losses of the next epoch will tell
            return {}
        values = torch.linalg.svdvals(weight)
        places = sorted({round(place) for place in torch.linspace(0, len(values) - 1, _MOST_VALUES).tolist()})
        return {f"{SINGULAR_VALUE}{place + 1}": float(f"{float(values[place]):.6g}") for place in places}

    def _decoupled(self, step: Step) -> Tensor:
        """Return DKD's terms, weighted and warmed up."""
        config = self.config
        student, teacher = step.student.require_logits(), step.teachers[0].require_logits()
        target, others = (
            part(student, teacher, step.batch.hard_labels(), config.temperature)
            for part in (target_class_kl, other_classes_kl)
        )
        growth = config.dkd_weight * linear_warmup(step.progress, config.dkd_warmup_share)
        return growth * (config.dkd_alpha * target + config.dkd_beta * others)
