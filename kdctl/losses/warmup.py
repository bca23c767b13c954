"""Letting a term grow at the beginning of training."""

from __future__ import annotations

from torch import Tensor


def linear_warmup(progress: Tensor, share: float) -> Tensor | float:
    """Return a factor that rises from 0 to 1 over the first `share` of training, and is 1 from there on.

    Args:
        progress: 0-dim, from 0 to 1.
        share: in [0, 1]; 0: no warm-up.
    """
    return 1.0 if share == 0 else (progress / share).clamp(max=1.0)


def sigmoid_rampup(progress: Tensor, share: float) -> Tensor | float:
    """Return exp(-5 (1 - x)^2), x rising from 0 to 1 over the first `share` of training; 1 from there on.

    Laine and Aila, "Temporal Ensembling", ICLR 2017, arXiv:1610.02242, part 2.3.

    Args:
        progress: 0-dim, from 0 to 1.
        share: in [0, 1]; 0: no warm-up.
    """
    return 1.0 if share == 0 else (-5 * (1 - (progress / share).clamp(max=1.0)).square()).exp()
