"""The vectors that classifiers read: what methods without maps hold against each other."""

from __future__ import annotations

from torch import Tensor

from kdctl.protocols.distiller import Step

POOLED = "pooled"
"""The tap that every backbone ends with, before its classifier."""


def pooled_vectors(step: Step) -> tuple[Tensor, Tensor]:
    """Return the pooled features of student [B, D_s] and first teacher [B, D_t]."""
    return step.student.taps[POOLED], step.teachers[0].taps[POOLED]
