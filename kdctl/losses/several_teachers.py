"""What methods with several teachers share: their predictions, and how each counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional

from kdctl.protocols.distiller import Step
from kdctl.recipe.component import tunable

SEVERAL: tuple[int, int | None] = (2, None)
"""How many teachers these methods take."""


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
