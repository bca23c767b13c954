"""ATSC: the teacher's encoder moves towards the student, and both share a classifier that goes along."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from kdctl.errors import KdctlError
from kdctl.losses.feature_distances import l2_distance
from kdctl.losses.projected_classifier import ProjectedClassifier, links_after
from kdctl.losses.reused_classifiers import Mean, ProjectedHeads, ReusedClassifiers, mean_prediction
from kdctl.losses.stages import projector_between
from kdctl.losses.supervision import label_loss
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import (
    Distiller,
    Losses,
    Match,
    NamedModel,
    ParameterGroup,
    Setup,
    Step,
    Update,
    methods,
)
from kdctl.protocols.maps import pool_to, shared_size
from kdctl.recipe.component import Spec, component, tunable
from kdctl.recipe.optimization import Dot, Sgd

_FEATURES, _CLASSIFIER = "features", "classifier"
"""The two updates of a step."""


@dataclass(frozen=True, kw_only=True)
class AtscConfig:
    """How far teachers may move; the defaults are those of the authors' command for CIFAR-100."""

    projector: Spec = component("projector", "bottleneck")
    """From the student's last map to each teacher's; part of the shipped model."""
    feature_weight: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 100.0, log=True)
    """Of the distance of features. 1 in the authors' code."""
    alpha: Annotated[float, Gt(0)] = tunable(1.0, 0.1, 1000.0, log=True)
    """Of the penalty on the change of a teacher's encoder. 1 in the authors' command for CIFAR-100, 10 in
    that for ImageNet. What counts is its ratio to `feature_weight`. With `penalty = "sum"` and SGD alpha
    times the encoder's rate (learning_rate * teacher_rate_scale) has to stay below 1 + momentum."""
    penalty: Literal["sum", "mean"] = "sum"
    """Of the squared changes of the encoder's parameters. The paper writes a mean, the authors' code sums.
    A mean over millions of parameters with alpha = 1 holds nothing: weight decay is stronger."""
    teacher_rate_scale: Annotated[float, Gt(0)] = tunable(1.0, 0.01, 1.0, log=True)
    """What the learning rate of encoders and classifiers of the teachers is multiplied by. 1 in the code; in
    a short training that begins with an untrained student, a teacher at the full rate is dragged to it."""
    batch_statistics: bool = True
    """While it adapts, a teacher's encoder normalises by the batch, and its running statistics follow, as in
    the authors' code; false: it keeps the running statistics that it came with."""
    mean: Mean = "probabilities"
    """Of what the prediction is the mean, with several teachers."""


@methods.register("atsc", label="ATSC")
class AdaptiveTeaching(Distiller):
    """Lets the teacher's encoder move towards the student, while their shared classifier learns.

    Jang, Kim, Lim and Lee, "Adaptive Teaching with Shared Classifier for Knowledge Distillation", 2024,
    arXiv:2406.08528, Figure 2. Each step has two updates:
    (a) student, projector and encoder of the teacher by
        L = feature_weight * mean( (f_t - P(f_s))^2 ) + alpha * |theta* - theta|^2,
        where theta are the parameters of the encoder and theta* those it came with;
    (b) the classifier by CE(C(f_t), y) on the encoder that (a) has just updated.
    The prediction is C(GAP(P(f_s))). f are the last maps before pooling, the larger one average-pooled to the
    smaller one's size in (a); theta is what leads to f_t, norms included, C all that follows it.

    The authors' code trains the bias of the classifier alone, holds its weight by the penalty instead, and
    spares the encoder's norms from it; it evaluates the student by a head that was never trained; and it
    saves neither projector nor adapted teacher. Here the penalty is on the encoder, all of it, and on nothing
    else, weight and bias of the classifier learn from labels, and all of it is shipped or saved.

    With several teachers, each has a projector, an encoder that moves and a classifier; both losses are means
    over the teachers, and the prediction is the mean of what the classifiers say. The paper has results for
    this case and the code has none of it: the form is our reading of the abstract.
    """

    Config: ClassVar[type] = AtscConfig
    num_teachers: ClassVar[tuple[int, int | None]] = (1, None)
    config: AtscConfig
    heads: ProjectedHeads
    adapted: nn.ModuleList

    def __init__(self, config: AtscConfig, setup: Setup) -> None:
        """Copy the teachers, and build a projector to each one's last map."""
        super().__init__(config, setup)
        self._own = setup.student.final_tap
        source = setup.student.map_shape(self._own)
        shapes = [teacher.map_shape(teacher.final_tap) for teacher in setup.teachers]
        sizes = [shared_size(source, shape) for shape in shapes]
        self.heads = ProjectedHeads(
            [projector_between(setup, config.projector, source, shape) for shape in shapes],
            sizes,
            [shape.channels for shape in shapes],
        )
        self.adapted = nn.ModuleList(
            copy.deepcopy(teacher).requires_grad_(requires_grad=True) for teacher in setup.teachers
        )
        self.student_taps = (self._own,)
        self.reads_student_logits = False
        self.reads_teacher_logits = False

    @classmethod
    def ships_student(cls, config: Any) -> bool:
        """Nobody ships the student's own classifier: it is not trained."""
        return False

    def matches(self) -> tuple[Match, ...]:
        """Return the last map of the student with that of each teacher."""
        return tuple(
            Match(student=self._own, teacher=teacher.final_tap, teacher_index=index)
            for index, teacher in enumerate(self.setup.teachers)
        )

    def updates(self) -> tuple[Update, ...]:
        """Return the encoders' update, and then that of the classifiers, which runs the encoders anew."""
        return (
            Update(name=_FEATURES, groups=("student", "encoder")),
            Update(name=_CLASSIFIER, groups=("classifier",), reads=False),
        )

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Return student and projectors, the teachers' encoders, and their classifiers."""
        scale = self.config.teacher_rate_scale
        student = (*self.student.parameters(), *self.heads.parameters())
        encoders = [p for encoder in _encoders(self._teachers()) for p in encoder.parameters()]
        tails = [p for tail in _tails(self._teachers()) for p in tail.parameters()]
        return (
            ParameterGroup(name="student", parameters=student),
            ParameterGroup(name="encoder", parameters=tuple(encoders), learning_rate_scale=scale),
            ParameterGroup(name="classifier", parameters=tuple(tails), learning_rate_scale=scale),
        )

    def eval_modules(self) -> tuple[nn.Module, ...]:
        """Return what does not normalise by the batch.

        Among it are the classifiers: they see features of both teacher and student, and a norm in one (some
        models have a convolution there) would mix up the statistics of the two.
        """
        encoders = () if self.config.batch_statistics else _encoders(self._teachers())
        return (*super().eval_modules(), *encoders, *_tails(self._teachers()))

    def models(self) -> tuple[NamedModel, ...]:
        """Return the adapted teachers: 'teacher', or 'teacher1', 'teacher2' and so on."""
        teachers = self._teachers()
        if len(teachers) == 1:
            return (NamedModel(name="teacher", module=teachers[0]),)
        return tuple(
            NamedModel(name=f"teacher{place}", module=teacher)
            for place, teacher in enumerate(teachers, start=1)
        )

    def check_optimizer(self, optimizer: Spec) -> None:
        """Refuse a penalty whose pull takes an encoder farther beyond its first weights than it was away.

        A step of SGD with momentum m on h / 2 * x^2 does not grow while rate * h < 2 * (1 + m); in Nesterov's
        form, while rate * h < 2 * (1 + m) / (1 + 2 * m).

        Raises:
            KdctlError: alpha is too large for the learning rate.
        """
        options = optimizer.options
        if not isinstance(options, Sgd | Dot):
            return
        rate, momentum = options.learning_rate * self.config.teacher_rate_scale, options.momentum
        limit = 1 + momentum
        if isinstance(options, Sgd) and options.nesterov:
            limit /= 1 + 2 * momentum
        counts = [sum(p.numel() for p in encoder.parameters()) for encoder in _encoders(self._teachers())]
        most = limit / rate * len(counts) * (1 if self.config.penalty == "sum" else min(counts))
        if self.config.alpha >= most:
            raise KdctlError(
                f"[method] alpha = {self.config.alpha:g} is too large: at the learning rate of {rate:g} that "
                f"a teacher's encoder has, its weights swing farther in every step from {most:g} on.",
                "lower method.alpha, method.teacher_rate_scale or optimizer.learning_rate.",
            )

    def losses(self, step: Step) -> Losses:
        """Return the terms of one of the two updates."""
        return self._classify(step) if step.update.name == _CLASSIFIER else self._meet(step)

    def inference_model(self) -> nn.Module:
        """Return the student's encoder, the projectors and the shared classifiers."""
        teachers = self._teachers()
        if len(teachers) > 1:
            encoder = self.student.encoder(self._own)
            return ReusedClassifiers(encoder, self.heads, _tails(teachers), self.config.mean)
        (teacher,), (size,) = teachers, self.heads.sizes
        tap = teacher.final_tap
        return ProjectedClassifier(
            self.student,
            self._own,
            self.heads.projectors[0],
            teacher.tail(tap),
            target=(teacher.map_shape(tap).channels, *size),
            links=links_after(teacher, tap, size),
            stages=teacher.stage_taps,
        )

    def _meet(self, step: Step) -> Losses:
        """Return the distances of features, and the penalties; gradients go to both sides."""
        teachers = self._teachers()
        maps = self.heads(step.student.taps[self._own])
        distances: list[Tensor] = []
        for encoder, projected, size in zip(_encoders(teachers), maps, self.heads.sizes, strict=True):
            target = pool_to(encoder(step.batch.images), size)
            distances.append(l2_distance(projected, target, None))
        changes, lengths = self._changes()
        penalties = [change.sum() if self.config.penalty == "sum" else change.mean() for change in changes]
        moved = torch.stack([change.detach().sum() for change in changes]).sum()
        with torch.no_grad():
            logits = [tail(projected) for tail, projected in zip(_tails(teachers), maps, strict=True)]
        return Losses(
            task=None,
            transfer={
                "distance": self.config.feature_weight * torch.stack(distances).mean(),
                "change": self.config.alpha * torch.stack(penalties).mean(),
            },
            logits=mean_prediction(logits, self.config.mean) if len(logits) > 1 else logits[0],
            metrics={"moved_percent": 100 * (moved / torch.stack(lengths).sum()).sqrt()},
        )

    def _classify(self, step: Step) -> Losses:
        """Return the cross-entropy of the teachers' classifiers on encoders that are left alone."""
        teachers = self._teachers()
        terms: list[Tensor] = []
        for encoder, tail in zip(_encoders(teachers), _tails(teachers), strict=True):
            with torch.no_grad():
                features = encoder(step.batch.images)
            terms.append(label_loss(tail(features), step.batch))
        return Losses(task=torch.stack(terms).mean(), logits=None)

    def _changes(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return for each teacher the squared change of each parameter of its encoder, and their length^2."""
        own, original = _encoders(self._teachers()), _encoders(self.setup.teachers)
        pairs = [(_flat(now), _flat(before)) for now, before in zip(own, original, strict=True)]
        return [(now - before).square() for now, before in pairs], [
            before.square().sum() for _, before in pairs
        ]

    def _teachers(self) -> list[Backbone]:
        return [teacher for teacher in self.adapted if isinstance(teacher, Backbone)]


def _encoders(teachers: Sequence[Backbone]) -> list[nn.Sequential]:
    return [teacher.encoder(teacher.final_tap) for teacher in teachers]


def _tails(teachers: Sequence[Backbone]) -> list[nn.Sequential]:
    return [teacher.tail(teacher.final_tap) for teacher in teachers]


def _flat(module: nn.Module) -> Tensor:
    """Return all parameters of a module in a row."""
    return torch.cat([parameter.flatten() for parameter in module.parameters()])
