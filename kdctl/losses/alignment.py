"""The maps of student and teacher that are held against each other, at one spatial size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdctl.protocols.distiller import Step
from kdctl.protocols.maps import pool_to


def at_one_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps [B, *, H, W] to the size of the smaller."""
    height, width = second.shape[-2:]
    own_height, own_width = first.shape[-2:]
    return pool_to(first, (height, width)), pool_to(second, (own_height, own_width))


def paired_maps(step: Step, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tensor, Tensor]]:
    """Return the maps of each pair of taps (student's, first teacher's), at one size within a pair."""
    student, teacher = step.student.taps, step.teachers[0].taps
    return [at_one_size(student[own], teacher[other]) for own, other in pairs]
