"""Logits on one scale, so that a student need not have the range of its teacher's."""

from __future__ import annotations

from torch import Tensor

_LEAST_DEVIATION = 1e-7


def standardised(logits: Tensor) -> Tensor:
    """Return each sample's logits less their mean, divided by their standard deviation.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv:2403.01427. The deviation
    is the unbiased one (n - 1) plus 1e-7, as in the authors' code; gradients pass through mean and
    deviation. Equal logits become 0, and get a gradient of 0. Computed in fp32.

    Args:
        logits: [B, K], K > 1.

    Returns:
        [B, K].
    """
    centred = logits.float() - logits.float().mean(dim=1, keepdim=True)
    squares = centred.square().sum(dim=1, keepdim=True)
    differs = squares > 0
    deviation = squares.where(differs, 1.0).div(logits.shape[1] - 1).sqrt() + _LEAST_DEVIATION
    return (centred / deviation).where(differs, 0.0)
