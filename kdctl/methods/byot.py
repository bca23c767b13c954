"""BYOT: let the student's last stage teach the stages before it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from kdctl.layers.conv import conv1x1, conv_bn_relu, depthwise3x3
from kdctl.layers.initialise import draw_convolutions
from kdctl.losses.supervision import label_loss
from kdctl.losses.vectors import lengths
from kdctl.protocols.backbone import GlobalAveragePool, Shape
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import tunable


@dataclass(frozen=True, kw_only=True)
class SelfDistillationConfig:
    """How much the last stage's predictions and features count for the exits before it."""

    soft_share: Annotated[float, Ge(0), Le(1)] = tunable(0.3, 0.0, 0.9)
    """alpha: of an exit's loss that is the divergence from the last one's predictions; the rest is the
    cross-entropy with the labels. 0.3 in the authors' code."""
    temperature: Annotated[float, Gt(0)] = tunable(3.0, 1.0, 20.0, log=True)
    """T of that divergence. 3 in the authors' code."""
    feature_weight: Annotated[float, Ge(0)] = tunable(0.03, 0.001, 1.0, log=True)
    """lambda: of the distances from the last features; 0 leaves them out. 0.03 in the authors' code."""
    feature_form: Literal["squared", "code"] = "squared"
    """'squared': the paper's squared L2 norm of each sample, mean over the batch. 'code': the L2 norm of the
    whole batch, not squared, as in the authors' code."""


@methods.register("byot", label="BYOT")
class SelfDistillation(Distiller):
    """Trains an exit at every stage of the student, taught by the last; no other teacher.

    Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self
    Distillation", ICCV 2019, arXiv:1905.08094, eq. 2 to 5, over the n - 1 exits before the student's own:
    L = CE(z, y) + sum_i [ (1 - soft_share) * CE(z_i, y) + soft_share * KL( p || p_i ) ]
      + feature_weight * sum_i | f_i - f |_2^2,
    with z, f the student's logits and the mean of its last map, both without gradient where an exit is held
    against them, and p = softmax(z / T). There is no T^2.

    An exit takes the map of its stage through a depthwise and a pointwise convolution, batch norm and ReLU
    for each stage that is left, to the width and size of the last one; its mean f_i is read by a linear
    layer. So are the exits of the authors' later code, which adds attention and linear adapters of f_i and
    strong augmentation. That code leaves one exit out of the feature term; here all are in it. Exits
    are not shipped.
    """

    Config: ClassVar[type] = SelfDistillationConfig
    num_teachers: ClassVar[tuple[int, int | None]] = (0, 0)
    config: SelfDistillationConfig

    def __init__(self, config: SelfDistillationConfig, setup: Setup) -> None:
        """Build an exit for every stage but the last."""
        super().__init__(config, setup)
        student = setup.student
        self.student_taps = student.stage_taps
        shapes = [student.map_shape(tap) for tap in student.stage_taps]
        self.exits = nn.ModuleList(_exit(shapes[place:]) for place in range(len(shapes) - 1))
        self.classifiers = nn.ModuleList(
            nn.Linear(shapes[-1][0], setup.num_classes) for _ in range(len(shapes) - 1)
        )
        draw_convolutions(self.exits)

    def losses(self, step: Step) -> Losses:
        """Return the cross-entropies of all exits, and what the last one teaches the others."""
        config = self.config
        logits = step.student.require_logits()
        features = [
            leave(step.student.taps[tap]) for leave, tap in zip(self.exits, self.student_taps, strict=False)
        ]
        answers = [read(each) for read, each in zip(self.classifiers, features, strict=True)]
        task = label_loss(logits, step.batch)
        transfer: dict[str, Tensor] = {}
        if answers:
            supervised = [label_loss(answer, step.batch) for answer in answers]
            task = task + (1 - config.soft_share) * torch.stack(supervised).sum()
            if config.soft_share > 0:
                softened = [_divergence(answer, logits.detach(), config.temperature) for answer in answers]
                transfer["soft"] = config.soft_share * torch.stack(softened).sum()
            if config.feature_weight > 0:
                last = step.student.taps[self.student_taps[-1]].detach().float().mean(dim=(2, 3))
                distances = [self._distance(each, last) for each in features]
                transfer["features"] = config.feature_weight * torch.stack(distances).sum()
        return Losses(task=task, transfer=transfer, logits=logits)

    def _distance(self, features: Tensor, last: Tensor) -> Tensor:
        """Return how far an exit's features [B, D] are from the last ones."""
        gap = features.float() - last
        return (
            gap.square().sum(dim=1).mean()
            if self.config.feature_form == "squared"
            else lengths(gap.flatten())
        )


def _exit(shapes: Sequence[Shape]) -> nn.Sequential:
    """Return what leads from the first of some stages to the features of the last: [B, C, H, W] -> [B, D]."""
    pieces: list[nn.Module] = []
    for (width, size, _), (next_width, next_size, _) in itertools.pairwise(shapes):
        pieces.append(depthwise3x3(width, stride=-(-size // next_size)))
        pieces.append(conv_bn_relu(conv1x1(width, next_width)))
    return nn.Sequential(*pieces, GlobalAveragePool())


def _divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return KL(target || logits) of softened predictions [B, K], mean over the batch, without T^2."""
    own = functional.log_softmax(logits.float() / temperature, dim=1)
    other = functional.log_softmax(target.float() / temperature, dim=1)
    return functional.kl_div(own, other, reduction="batchmean", log_target=True)
