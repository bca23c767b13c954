"""How much each of several teachers counts where their gradients should agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from kdctl.errors import KdctlError
from kdctl.losses.min_norm import MOST_VECTORS, MinNormWeights
from kdctl.losses.several_teachers import SeveralTeachers
from kdctl.losses.vectors import lengths
from kdctl.protocols.distiller import Step

FEW: tuple[int, int | None] = (2, MOST_VECTORS)
"""How many teachers these methods take."""


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
