"""Telling the partner of a vector from noise: noise-contrastive estimation with a fixed normalisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def noise_contrast(scores: Tensor, log_mean: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of telling each anchor's partner from its K noise samples.

    Tian et al., "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699, and its code. With
    P = exp(score) / Z, log Z = log N + `log_mean`, and noise drawn uniformly from N samples:

        mean_b [ -log( P_b0 / (P_b0 + K/N) ) - sum_k log( (K/N) / (P_bk + K/N) ) ].

    N cancels: each probability is the logistic function of score - log_mean - log K. In this form
    nothing can overflow, and the code's guard of 1e-7 is not needed.

    Args:
        scores: [B, 1 + K]: the partner's first, then those of the noise.
        log_mean: 0-dim: logarithm of the mean of exp(score) by which scores are normalised.
        weights: [B, K]: how often each noise sample counts; None: once.

    Returns:
        0-dim tensor.
    """
    logits = scores - log_mean - math.log(scores.shape[1] - 1)
    partner, noise = functional.softplus(-logits[:, 0]), functional.softplus(logits[:, 1:])
    if weights is not None:
        noise = weights * noise
    return partner.mean() + noise.sum(dim=1).mean()


def log_mean_exponential(scores: Tensor) -> Tensor:
    """Return log( mean of exp(score) ) over all scores of any shape, 0-dim."""
    return scores.flatten().logsumexp(dim=0) - math.log(scores.numel())


def weights_of_counted(counted: Tensor) -> Tensor:
    """Return 0 for noise that does not count, and for the rest of a row its weight as well.

    Args:
        counted: [B, K], bool.

    Returns:
        [B, K], float: equal where counted, summing to K in each row; all 0 in one without any.
    """
    weights = counted.float()
    return weights * (counted.shape[1] / weights.sum(dim=1, keepdim=True).clamp(min=1))


def draw_others(index: Tensor, count: int, num_samples: int, rng: torch.Generator) -> Tensor:
    """Draw for each sample `count` others out of `num_samples`, uniformly and with replacement.

    Args:
        index: [B], int64: the samples, which do not draw themselves.
        count: how many, more than there are if need be.
        num_samples: at least 2.
        rng: on the device of `index`.

    Returns:
        [B, count], int64.
    """
    drawn = torch.randint(num_samples - 1, (len(index), count), generator=rng, device=index.device)
    return drawn + (drawn >= index[:, None])
