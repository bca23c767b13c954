"""CA-MKD: trust those of several teachers that know the label, sample by sample."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.several_teachers import SEVERAL, SeveralTeachers, divergences, each_weight
from kdctl.losses.stages import at_one_size, projector_between
from kdctl.losses.supervision import task_term
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.recipe.component import Spec, component, tunable


@dataclass(frozen=True, kw_only=True)
class ConfidenceAwareConfig(SeveralTeachers):
    """How features are projected, and how they count."""

    feature_weight: Annotated[float, Gt(0)] = tunable(50.0, 0.5, 500.0, log=True)
    """beta: of the distances of features. 50 in the paper and the authors' code."""
    projector: Spec = component("projector", "pointwise")
    """E, from the student's last map to each teacher's; not shipped."""
    detach_weights: bool = True
    """Teachers' weights are constants. In the authors' code those of features are not, although they depend
    on the student: it can lower the loss by spoiling them."""
    divide_by_teachers: bool = False
    """Divide both terms by the number of teachers once more, as the authors' code does."""


@methods.register("camkd", label="CA-MKD")
class ConfidenceAwareDistillation(Distiller):
    """Cross-entropy plus divergences and distances from several teachers, weighed by the labels.

    Zhang, Chen and Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022,
    arXiv:2201.00007, eq. 1 to 7:
    L = ce_weight * CE(z_s, y) + kd_weight * mean_b sum_k w_bk * T^2 * KL(p_k || p_s)_b
      + feature_weight * mean_b sum_k v_bk * mean_{C,H,W}( (E_k(f_s) - f_k)_b^2 ),
    w_bk = (1 - softmax_k( CE(z_k, y)_b )) / (T' - 1) over T' teachers, and v_bk likewise with the
    cross-entropies of teacher k's own classifier on E_k(f_s). Weights of a sample sum to 1.

    f are the last maps before pooling, the larger averaged to the smaller, for each teacher anew: the
    authors' code keeps the map it averaged for the teacher before. Theirs divides by T' once more
    (`divide_by_teachers`), lets gradients pass through the weights (`detach_weights`), skips batches
    that are not full, and begins with features in the second epoch.
    """

    Config: ClassVar[type] = ConfidenceAwareConfig
    num_teachers: ClassVar[tuple[int, int | None]] = SEVERAL
    config: ConfidenceAwareConfig

    def __init__(self, config: ConfidenceAwareConfig, setup: Setup) -> None:
        """Build a projector to each teacher's last map."""
        super().__init__(config, setup)
        self._own = setup.student.final_tap
        self.student_taps = (self._own,)
        source = setup.student.map_shape(self._own)
        self.teacher_taps = tuple(
            (teacher.tap_at(teacher.final_tap, (source.height, source.width)),) for teacher in setup.teachers
        )
        self.projectors = nn.ModuleList(
            projector_between(setup, config.projector, source, teacher.map_shape(teacher.final_tap))
            for teacher in setup.teachers
        )
        # In a tuple: no submodules, so never trained, saved or put into training mode.
        self._tails = tuple(teacher.tail(teacher.final_tap) for teacher in setup.teachers)

    def losses(self, step: Step) -> Losses:
        """Return the weighed divergences and distances beside the cross-entropy."""
        config, labels = self.config, step.batch.hard_labels()
        weights = _trust([teacher.require_logits() for teacher in step.teachers], labels)
        share = 1 / len(step.teachers) if config.divide_by_teachers else 1.0
        divergence = (weights * divergences(step, config.temperature)).sum(dim=0).mean()
        distances, feature_weights = self._features(step)
        distance = (feature_weights * distances).sum(dim=0).mean()
        return Losses(
            task=task_term(config, step),
            transfer={
                "kd": config.kd_weight * share * divergence,
                "camkd": config.feature_weight * share * distance,
            },
            logits=step.student.require_logits(),
            metrics=each_weight(weights.mean(dim=1)),
        )

    def _features(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return distances and weights of all teachers and samples, [T, B] each."""
        distances: list[Tensor] = []
        logits: list[Tensor] = []
        for place, (project, tail) in enumerate(zip(self.projectors, self._tails, strict=True)):
            (tap,) = self.teacher_taps[place]
            own, other = at_one_size(step.student.taps[self._own], step.teachers[place].taps[tap])
            projected = project(own)
            distances.append((projected.float() - other.float()).square().mean(dim=(1, 2, 3)))
            with torch.no_grad() if self.config.detach_weights else contextlib.nullcontext():
                logits.append(tail(projected))
        return torch.stack(distances), _trust(logits, step.batch.hard_labels())


def _trust(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Return how much each teacher counts for each sample, [T, B], by its cross-entropy with the labels."""
    errors = torch.stack([functional.cross_entropy(one.float(), labels, reduction="none") for one in logits])
    return (1 - errors.softmax(dim=0)) / (len(logits) - 1)
