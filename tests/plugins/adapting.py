"""A teacher that adapts: its encoder follows the student, its classifier has an optimizer of its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.losses.projected_classifier import ProjectedClassifier
from kdctl.losses.supervision import label_loss
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
from kdctl.recipe.component import Spec, component


@dataclass(frozen=True, kw_only=True)
class AdaptingConfig:
    projector: Spec = component("projector", "pointwise")
    classifier_optimizer: Spec = component("optimizer", "adamw")


@methods.register("proof_adapting", label="Proof: adapting")
class Adapting(Distiller):
    """Features of student and adapted teacher meet; then the shared classifier learns from labels."""

    Config: ClassVar[type] = AdaptingConfig
    config: AdaptingConfig

    def __init__(self, config: AdaptingConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.adapted = copy.deepcopy(setup.teacher).requires_grad_()
        own, other = setup.student.final_tap, setup.teacher.final_tap
        source, target = setup.student.map_shape(own), setup.teacher.map_shape(other)
        self.size = shared_size(source, target)
        self.projector = setup.make_projector(
            config.projector, (source.channels, *self.size), (target.channels, *self.size)
        )
        self.student_taps = (own,)
        self.reads_student_logits = self.reads_teacher_logits = False

    @classmethod
    def ships_student(cls, config: AdaptingConfig) -> bool:
        return False

    def matches(self) -> tuple[Match, ...]:
        return (Match(student=self.student.final_tap, teacher=self.adapted.final_tap),)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        tail = self.adapted.tail(self.adapted.final_tap)
        encoder = self.adapted.encoder(self.adapted.final_tap)
        student = (*self.student.parameters(), *self.projector.parameters())
        return (
            ParameterGroup(name="student", parameters=student),
            ParameterGroup(name="encoder", parameters=tuple(encoder.parameters()), learning_rate_scale=0.1),
            ParameterGroup(
                name="classifier",
                parameters=tuple(tail.parameters()),
                optimizer=self.config.classifier_optimizer,
                weight_decay=0.0,
            ),
        )

    def eval_modules(self) -> tuple[nn.Module, ...]:
        return (*super().eval_modules(), self.adapted)

    def updates(self) -> tuple[Update, ...]:
        return (
            Update(name="features", groups=("student", "encoder")),
            Update(name="classifier", groups=("classifier",), reads=False),
        )

    def models(self) -> tuple[NamedModel, ...]:
        return (NamedModel(name="teacher", module=self.adapted),)

    def losses(self, step: Step) -> Losses:
        tap = self.adapted.final_tap
        if step.update.name == "classifier":
            with torch.no_grad():
                features = self.adapted.observe(step.batch.images, (tap,), with_logits=False).taps[tap]
            logits = self.adapted.tail(tap)(features)
            return Losses(task=label_loss(logits, step.batch), logits=None)
        own = self.projector(pool_to(step.student.taps[self.student.final_tap], self.size))
        target = self.adapted.observe(step.batch.images, (tap,), with_logits=False).taps[tap]
        distance = functional.mse_loss(own.float(), pool_to(target, self.size).float())
        with torch.no_grad():
            logits = self.adapted.tail(tap)(own)
        stay = sum((p - q).square().mean() for p, q in self._encoders())
        return Losses(task=None, transfer={"features": distance, "stay": 0.1 * stay}, logits=logits)

    def _encoders(self) -> list[tuple[Tensor, Tensor]]:
        encoders = (model.encoder(model.final_tap) for model in (self.adapted, self.setup.teacher))
        return list(zip(*(encoder.parameters() for encoder in encoders), strict=True))

    def inference_model(self) -> nn.Module:
        adapted = self.adapted
        order = list(adapted.tap_shapes)
        after = order[order.index(adapted.final_tap) + 1 :]
        return ProjectedClassifier(
            self.student,
            self.student.final_tap,
            self.projector,
            adapted.tail(adapted.final_tap),
            target=(adapted.map_shape(adapted.final_tap).channels, *self.size),
            links={name: adapted.tap_shapes[name] for name in after},
        )
