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
