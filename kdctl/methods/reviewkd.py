"""ReviewKD: let deeper features of the student help its shallower ones to match the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from kdctl.layers.conv import conv1x1, conv3x3, conv_bn
from kdctl.losses.stages import Reading, map_of, pair_stages, preactivation
from kdctl.losses.supervision import Supervision, prediction_terms, task_term
from kdctl.losses.warmup import linear_warmup
from kdctl.protocols.backbone import POOLED, Backbone
from kdctl.protocols.distiller import Distiller, Losses, Match, Setup, Step, methods
from kdctl.protocols.maps import pool_to
from kdctl.recipe.component import option, tunable


@dataclass(frozen=True, kw_only=True)
class ReviewKdConfig(Supervision):
    """Weight and width of the review."""

    kd_weight: Annotated[float, Ge(0)] = 0.0
    """Of T^2 * KL(teacher || student); the paper does without."""
    review_weight: Annotated[float, Gt(0)] = tunable(5.0, 0.5, 30.0, log=True)
    """Of the sum over levels. The authors' values on CIFAR-100 go by pair: 5 for WRNs, ResNet-8x4 and
    ShuffleNetV1, 8 for ShuffleNetV2, 0.6 for ResNet-20, 1 for ResNet-32."""
    warmup_share: Annotated[float, Ge(0), Le(1)] = 20 / 240
    """Share of training over which that weight rises from 0: 20 of 240 epochs in the authors' code."""
    max_width: Annotated[int, Gt(0), Le(65_536)] = 512
    """Channels inside the fusion modules, at most; else as many as the student's vector has. 512 there."""
    maps: Reading = option("activated", since="0.2.0")
    """Of a wide ResNet as student: 'activated', or 'raw', the sums of residuals before batch norm and ReLU.
    Protocol `crd` sets 'raw', as its code has it; the teacher's maps are behind batch norm in any case."""


class AttentionBasedFusion(nn.Module):
    """Weighs a stage's map against what deeper stages handed up, position by position, and adds them."""

    def __init__(self, in_channels: int, width: int, out_channels: int, *, is_deepest: bool) -> None:
        """Fuse inside `width` channels; the deepest level has nothing to fuse with."""
        super().__init__()
        self.reduce = conv_bn(conv1x1(in_channels, width))
        self.expand = conv_bn(conv3x3(width, out_channels))
        self.attention = None if is_deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        for conv in (self.reduce[0], self.expand[0]):
            nn.init.kaiming_uniform_(conv.get_parameter("weight"), a=1)

    def forward(
        self, features: Tensor, deeper: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return what is handed up, [B, width, *size], and what is compared, [B, C_out, *size].

        Args:
            features: this level's map [B, C_in, H, W].
            deeper: what the level below handed up, [B, width, *, *]; None at the deepest.
            size: height and width of the teacher's map.
        """
        fused = self.reduce(features)
        if self.attention is not None and deeper is not None:
            height, width = fused.shape[-2:]
            deeper = resized(deeper, (height, width))
            own, other = self.attention(torch.cat((fused, deeper), dim=1)).split(1, dim=1)
            fused = own * fused + other * deeper
        fused = resized(fused, size)
        return fused, self.expand(fused)


@methods.register("reviewkd", label="ReviewKD")
class ReviewKd(Distiller):
    """Cross-entropy, plus distances of maps that the student's deeper stages helped to form.

    Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv:2104.09044:
    L = ce_weight * CE + review_weight * w(t) * sum_levels HCL( F(f_s[i], r[i + 1]), f_t[i] ),
    with r what is handed up from the deepest level, F the attention-based fusion, HCL the hierarchical
    context loss, and w rising linearly from 0 to 1.

    Levels are the stages and the pooled vector. The teacher's maps are those before the stage's last
    activation, as in the authors' code. There, shapes are listed by hand for some pairs; here stages
    are paired by relative depth, for any models. Two differences: w rises with every step, where the
    authors' rises once an epoch (and is 0 in all of the first); a student's map larger than the teacher's
    is averaged down, where theirs is thinned out. And their teacher ran on statistics of the batch, by
    mistake, in the CIFAR script; ours is in eval mode.
    """

    Config: ClassVar[type] = ReviewKdConfig
    config: ReviewKdConfig

    def __init__(self, config: ReviewKdConfig, setup: Setup) -> None:
        """Build a fusion module for every level, the deepest first."""
        super().__init__(config, setup)
        student, teacher = setup.student.tap_shapes, setup.teacher.tap_shapes
        self.levels = tuple(_levels(setup.student, setup.teacher, config.maps))
        width = min(config.max_width, student[POOLED][0])
        self.fusions = nn.ModuleList(
            AttentionBasedFusion(student[own][0], width, teacher[other][0], is_deepest=place == 0)
            for place, (own, other) in enumerate(self.levels)
        )
        self.student_taps = tuple(dict.fromkeys(own for own, _ in self.levels))
        self.teacher_taps = (tuple(dict.fromkeys(other for _, other in self.levels)),)
        self.reads_teacher_logits = config.kd_weight > 0

    def matches(self) -> tuple[Match, ...]:
        """Return the levels, the deepest first; all count alike."""
        return tuple(Match(student=own, teacher=other, weight=1.0) for own, other in self.levels)

    def losses(self, step: Step) -> Losses:
        """Return the sum of the levels' distances beside the predictions' terms."""
        review = torch.stack(list(self.distances(step))).sum()
        weight = self.config.review_weight * linear_warmup(step.progress, self.config.warmup_share)
        return Losses(
            task=task_term(self.config, step),
            transfer={**prediction_terms(self.config, step), "reviewkd": weight * review},
            logits=step.student.require_logits(),
        )

    def distances(self, step: Step) -> Iterator[Tensor]:
        """Yield the distance at each level, from the deepest up."""
        handed_up: Tensor | None = None
        for fusion, (own, other) in zip(self.fusions, self.levels, strict=True):
            target = as_map(step.teachers[0].taps[other])
            height, width = target.shape[-2:]
            handed_up, compared = fusion(as_map(step.student.taps[own]), handed_up, (height, width))
            yield hierarchical_context_loss(compared, target)


def resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a map [B, C, H, W] down to `size`, or repeat its nearest pixels up to it."""
    features = pool_to(features, size)
    return features if features.shape[-2:] == size else functional.interpolate(features, size, mode="nearest")


def as_map(features: Tensor) -> Tensor:
    """Return a map [B, C, H, W] as it is, a vector [B, D] as a map of one pixel."""
    return features if features.dim() == 4 else features[:, :, None, None]


def _levels(student: Backbone, teacher: Backbone, reading: Reading) -> Iterator[tuple[str, str]]:
    """Yield the taps that are compared, from the vectors that classifiers read up to the first stages."""
    yield POOLED, POOLED
    for own, other in reversed(pair_stages(student, teacher)):
        yield map_of(student, own, reading), preactivation(teacher, other)


_COARSER = (4, 2, 1)


def hierarchical_context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two maps and of their averages over 4x4, 2x2 and 1x1 cells.

    Chen et al., arXiv:2104.09044 (HCL). Each summary counts half as much as the finer one
    before it, and the sum is divided by the sum of these weights; those not coarser than the map are
    left out. Computed in fp32.

    Args:
        student: [B, C, H, W].
        teacher: the same shape.

    Returns:
        0-dim tensor.
    """
    difference = student.float() - teacher.float()
    loss, total, weight = difference.square().mean(), 1.0, 1.0
    for size in _COARSER:
        if size < difference.shape[-2]:
            weight /= 2
            total += weight
            # The difference of averages is the average of the differences.
            loss = loss + weight * pool_to(difference, (size, size)).square().mean()
    return loss / total
