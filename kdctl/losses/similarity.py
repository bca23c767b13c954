"""How alike the samples of a batch are, in the eyes of one layer."""

from __future__ import annotations

from torch import Tensor

from kdctl.losses.vectors import dot_products, unit_vectors


def similarity_rows(features: Tensor, *, num_anchors: int | None = None) -> Tensor:
    """Return the similarities of each sample to the first samples of the batch, as rows of length 1.

    Tung and Mori, ICCV 2019, arXiv:1907.09682, eq. 1 and 2: the inner products of the flattened
    features, each row divided by its L2 norm. Computed in fp32.

    Args:
        features: [B, ...], maps or vectors.
        num_anchors: how many samples of the batch to compare with; None: all.

    Returns:
        [B, min(B, num_anchors)].
    """
    flat = features.flatten(1)
    return unit_vectors(dot_products(flat, flat[:num_anchors]))
