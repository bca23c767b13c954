"""CRD: tell the teacher's view of the same image from its views of others, and the other way round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.vectors import dot_products, pooled_vectors, unit_vectors
from kdctl.protocols.backbone import POOLED, Backbone
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import tunable

_UNSEEN = -1
"""Label of a sample that has not been in a batch yet."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(Supervision):
    """Weight, embedding, negatives and memory."""

    crd_weight: Annotated[float, Gt(0)] = tunable(0.8, 0.05, 5.0, log=True)
    """Of both contrasts together. 0.8 in the code of both protocols."""
    embedding_width: Annotated[int, Ge(1), Le(65_536)] = 128
    """To which student's and teacher's vectors are brought by a linear layer each. 128 in the paper."""
    num_negatives: Annotated[int, Ge(1), Le(10_000_000)] = 16384
    """K: other samples that each is told from; may exceed the data set. 16384 in the paper."""
    negatives: Literal["other-classes", "all"] = "other-classes"
    """'other-classes': samples of the anchor's own class are taken out, as in the paper's tables."""
    contrast_temperature: Annotated[float, Gt(0)] = 0.07
    """tau: what cosines are divided by. 0.07 in the authors' code."""
    bank_momentum: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Share of a remembered embedding that outlives its renewal. 0.5 in the authors' code."""


class MemoryBank(nn.Module):
    """The latest embedding of every training sample, as one network gave it."""

    vectors: Tensor
    """[N, D], of length 1: random directions where a sample was not seen yet."""
    log_mean: Tensor
    """0-dim: log of the mean of exp(score) in the first batch, which normalises scores; before it -inf."""

    def __init__(self, num_samples: int, width: int) -> None:
        """Start with random directions."""
        super().__init__()
        self.register_buffer("vectors", unit_vectors(torch.randn(num_samples, width)))
        self.register_buffer("log_mean", torch.tensor(-torch.inf))

    def scores(self, anchors: Tensor, samples: Tensor, temperature: float) -> Tensor:
        """Return cosine / temperature of anchors [B, D] with remembered `samples` [B, M], as [B, M].

        Taken from the products with the whole bank: N numbers an anchor instead of M * D.
        """
        products = dot_products(anchors, self.vectors)
        places = samples + len(self.vectors) * torch.arange(len(samples), device=samples.device)[:, None]
        # Not `gather`: on a GPU in deterministic mode its backward pass copies strides from the host (torch's
        # `_scatter_via_index_put`), which a CUDA graph cannot record.
        return products.flatten().index_select(0, places.flatten()).view_as(samples) / temperature

    def normalisation(self, scores: Tensor) -> Tensor:
        """Return `log_mean`; while it is not known, that of `scores`: they are the first batch's."""
        return torch.where(self.log_mean.isneginf(), log_mean_exponential(scores.detach()), self.log_mean)

    def renew(self, index: Tensor, embeddings: Tensor, momentum: float) -> None:
        """Move the vectors of samples `index` [B], each named once, towards `embeddings` [B, D]."""
        mixed = momentum * self.vectors[index] + (1 - momentum) * embeddings
        self.vectors.index_copy_(0, index, unit_vectors(mixed))


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a step leaves to remember."""

    student: Tensor
    """[B, D]: the student's embeddings before the update."""
    teacher: Tensor
    """[B, D]: the teacher's."""
    normalisations: tuple[Tensor, Tensor]
    """0-dim each: of the student's bank, of the teacher's."""


@methods.register("crd", label="CRD")
class ContrastiveRepresentationDistillation(Distiller):
    """Cross-entropy and divergence, plus contrasts of each network's embedding with the other's.

    Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699,
    section 3.1, both ways:
    L = ce_weight * CE + kd_weight * KL + crd_weight * ( NCE(e_s; bank_t) + NCE(e_t; bank_s) ),
    NCE = -mean_b [ log h(e_b, m_b) + sum_k log(1 - h(e_b, m_k)) ],  h = P / (P + K/N),
    P(e, m) = exp(e . m / tau) / Z, with e = linear(pooled vector) / length, m out of a bank of all N
    samples, and K negatives k. Z = N * mean exp(e . m / tau) of the first batch is in the authors' code,
    not in the paper. The linear layer of the teacher is trained as well.

    Where we differ from that code: negatives are drawn on the device, with replacement (the code
    draws without, on the CPU, which is its slowest part), out of all samples; those of the anchor's
    own class then count 0 and the others correspondingly more, which has the same mean. A sample's class
    is known once it has been in a batch: before, its bank entry is noise of no class.
    """

    Config: ClassVar[type] = ContrastiveConfig
    config: ContrastiveConfig
    labels: Tensor
    """[N], int64: classes of the samples seen so far."""

    def __init__(self, config: ContrastiveConfig, setup: Setup) -> None:
        """Build embeddings and banks."""
        super().__init__(config, setup)
        self.student_taps = (POOLED,)
        self.teacher_taps = ((POOLED,),)
        self.reads_teacher_logits = config.kd_weight > 0
        self.student_embedding = self._embedding(setup.student)
        self.teacher_embedding = self._embedding(setup.teacher)
        self.student_bank = MemoryBank(setup.num_samples, config.embedding_width)
        self.teacher_bank = MemoryBank(setup.num_samples, config.embedding_width)
        self.register_buffer("labels", torch.full((setup.num_samples,), _UNSEEN))
        self._seen: _Seen | None = None

    def losses(self, step: Step) -> Losses:
        """Return both contrasts beside the predictions' terms."""
        student, teacher = pooled_vectors(step)
        contrast = self._contrast(
            step, unit_vectors(self.student_embedding(student)), unit_vectors(self.teacher_embedding(teacher))
        )
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "crd": self.config.crd_weight * contrast},
            logits=step.student.require_logits(),
        )

    @torch.no_grad()
    def after_update(self, step: Step) -> None:
        """Remember embeddings (those from before the update) and labels, and the first normalisation."""
        if self._seen is None:
            raise ValueError("after_update follows losses")
        seen, self._seen = self._seen, None
        banks, index = (self.student_bank, self.teacher_bank), step.batch.index
        for bank, embeddings, log_mean in zip(
            banks, (seen.student, seen.teacher), seen.normalisations, strict=True
        ):
            bank.renew(index, embeddings, self.config.bank_momentum)
            bank.log_mean.copy_(log_mean)
        self.labels.index_copy_(0, index, step.batch.hard_labels())

    def _contrast(self, step: Step, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the sum of both contrasts of embeddings [B, D] of length 1."""
        config, index = self.config, step.batch.index
        negatives = draw_others(index, config.num_negatives, self.setup.num_samples, self.setup.rng)
        samples = torch.cat([index[:, None], negatives], dim=1)
        weights = None
        if config.negatives == "other-classes":
            weights = weights_of_counted(self.labels[negatives] != step.batch.hard_labels()[:, None])
        of_student = self.student_bank.scores(teacher, samples, config.contrast_temperature)
        of_teacher = self.teacher_bank.scores(student, samples, config.contrast_temperature)
        normalisations = (
            self.student_bank.normalisation(of_student),
            self.teacher_bank.normalisation(of_teacher),
        )
        self._seen = _Seen(student=student.detach(), teacher=teacher.detach(), normalisations=normalisations)
        return noise_contrast(of_student, normalisations[0], weights=weights) + noise_contrast(
            of_teacher, normalisations[1], weights=weights
        )

    def _embedding(self, backbone: Backbone) -> nn.Linear:
        return nn.Linear(backbone.tap_shapes[POOLED][0], self.config.embedding_width)


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

    Raises:
        KdctlError: there is one sample in all.
    """
    if num_samples < 2:
        raise KdctlError(
            "method 'crd' holds samples against others, and there is one in all.",
            "in a loop of your own, say how many there are: num_samples=...",
        )
    drawn = torch.randint(num_samples - 1, (len(index), count), generator=rng, device=index.device)
    return drawn + (drawn >= index[:, None])
