"""What methods with several teachers share: their predictions, and how each counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.losses.min_norm import MOST_VECTORS, MinNormWeights
from kdctl.losses.vectors import lengths
from kdctl.protocols.distiller import Step
from kdctl.recipe.component import tunable

SEVERAL: tuple[int, int | None] = (2, None)
"""Two teachers or more, for `Distiller.num_teachers`."""


@dataclass(frozen=True, kw_only=True)
class SeveralTeachers:
    """Weights of the terms about predictions; a method's `Config` adds its own to these."""

    kd_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 10.0, log=True)
    """Of T^2 * KL(teacher || student) of all teachers. 1 in the code of CA-MKD, 0.9 in that of AE-KD."""
    temperature: Annotated[float, Gt(0)] = 4.0
    """T: what logits are divided by before the softmax."""
    ce_weight: Annotated[float, Ge(0)] = 1.0
    """Of the cross-entropy with the labels; 0 leaves it out."""


def log_probabilities(step: Step, temperature: float = 1.0) -> Tensor:
    """Return the logarithms of all teachers' softened predictions: [T, B, K], fp32."""
    return torch.stack(
        [
            functional.log_softmax(teacher.require_logits().float() / temperature, dim=1)
            for teacher in step.teachers
        ]
    )


def divergences(step: Step, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of each teacher and sample: [T, B], fp32."""
    student = functional.log_softmax(step.student.require_logits().float() / temperature, dim=1)
    teachers = log_probabilities(step, temperature)
    return (teachers.exp() * (teachers - student)).sum(dim=2) * temperature**2


def each_weight(weights: Tensor) -> Mapping[str, Tensor]:
    """Return the weights [T] of the teachers as metrics by name."""
    return {f"weight_{place}": weight for place, weight in enumerate(weights.unbind(), start=1)}


FEW: tuple[int, int | None] = (2, MOST_VECTORS)
"""Two teachers or more, and no more than `MinNormWeights` can weigh."""


@dataclass(frozen=True, kw_only=True)
class GradientAgreement(SeveralTeachers):
    """Bounds of the teachers' weights; a method's `Config` adds its own to these."""

    max_weight: Annotated[float, Gt(0), Le(1)] = 0.6
    """C: what one teacher counts at most. 0.6 in the authors' code; 1 / number of teachers: all alike."""


def agreeing_weights(num_teachers: int, max_weight: float) -> MinNormWeights:
    """Return the module that finds the weights of so many teachers.

    Raises:
        KdctlError: no weights below `max_weight` sum to 1.
    """
    if max_weight * num_teachers < 1:
        raise KdctlError(
            f"[method] max_weight = {max_weight}: the weights of {num_teachers} teachers cannot sum to 1.",
            f"set method.max_weight to {1 / num_teachers:.3g} or more.",
        )
    return MinNormWeights(num_teachers, max_weight)


@torch.no_grad()
def logit_gradients(step: Step, temperature: float) -> Tensor:
    """Return the gradients [T, K] of the divergences from all teachers with respect to the student's logits.

    Means over the batch, up to a factor that is the same for all: p_s - p_k, softened.
    """
    outputs = [step.student, *step.teachers]
    student, *teachers = (
        (one.require_logits().float() / temperature).softmax(dim=1).mean(dim=0) for one in outputs
    )
    return torch.stack([student - teacher for teacher in teachers])


def weights_of_directions(find: MinNormWeights, gradients: Tensor) -> Tensor:
    """Return the weights [T] with which gradients [T, D], each divided by its length, are shortest.

    Gradients of length 0 have none: they count as if they were as long as the others' mean.
    """
    size = lengths(gradients)
    present = size > 0
    mean = size.sum() / present.sum().clamp(min=1)
    size = size.where(present, mean.where(mean > 0, 1.0))
    weights = find(gradients / size[:, None]) / size
    return weights / weights.sum()
