"""Where a network looks: activation-based attention maps."""

from __future__ import annotations

from torch import Tensor

from kdctl.losses.vectors import unit_vectors


def attention_map(features: Tensor) -> Tensor:
    """Return the spatial attention of maps [B, C, H, W] as vectors [B, H * W] of length 1.

    Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928, section 3.1: the squares of the activations,
    averaged over the channels (the sum gives the same direction), flattened and divided by the L2 norm.
    A sample without any activation gets the zero vector. Computed in fp32.
    """
    return unit_vectors(features.float().square().mean(dim=1).flatten(1))
