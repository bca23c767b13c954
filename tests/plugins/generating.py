"""A generator that invents a pool of images at the start of each epoch; the student sees no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdctl.losses.soft_targets import soft_target_kl
from kdctl.protocols.distiller import (
    Batch,
    Distiller,
    Losses,
    NamedModel,
    ParameterGroup,
    Phase,
    Setup,
    Step,
    Update,
    methods,
)
from kdctl.recipe.component import Spec, component
from kdctl.recipe.data_free import GeneratedImages

NOISE, POOL = 8, 24


@dataclass(frozen=True, kw_only=True)
class GeneratingConfig(GeneratedImages):
    batch_size: int = 6
    steps_per_epoch: int = 3
    generator_optimizer: Spec = component("optimizer", "adamw")


@methods.register("proof_generating", label="Proof: generating")
class Generating(Distiller):
    """The generator seeks images on which student and teacher differ; the student learns from old and new."""

    Config: ClassVar[type] = GeneratingConfig
    config: GeneratingConfig
    pool: Tensor

    def __init__(self, config: GeneratingConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        size = setup.student.input_size
        layers = (nn.Linear(NOISE, 3 * size * size), nn.Unflatten(1, (3, size, size)), nn.BatchNorm2d(3))
        self.generator = nn.Sequential(*layers)
        self.register_buffer("pool", torch.zeros(POOL, 3, size, size))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase(name="warm", share=0.5), Phase(name="main", share=0.5))

    def updates(self) -> tuple[Update, ...]:
        student = Update(name="student", groups=("student",), repeats=2)
        if self.phase.name == "warm":
            return (student,)
        return (Update(name="generator", groups=("generator",), reads=False), student)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        generator = tuple(self.generator.parameters())
        return (
            ParameterGroup(name="student", parameters=tuple(self.student.parameters())),
            ParameterGroup(name="generator", parameters=generator, optimizer=self.config.generator_optimizer),
        )

    def frozen_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator} if self.phase.name == "warm" else {}

    def models(self) -> tuple[NamedModel, ...]:
        return (NamedModel(name="generator", module=self.generator, is_classifier=False),)

    @torch.no_grad()
    def prepare_epoch(self, *, first_of_phase: bool) -> None:
        mode = self.generator.training
        self.generator.eval()
        self.pool.copy_(self.generator(self._noise(POOL)) + 0.1 * float(first_of_phase))
        self.generator.train(mode)

    def make_batch(self, update: Update) -> Batch:
        count = self.config.batch_size
        index = torch.arange(count, device=self.pool.device)
        if update.name == "generator":
            return Batch(images=self.generator(self._noise(count)), labels=None, index=index)
        places = (torch.rand(count, generator=self.setup.rng, device=self.pool.device) * POOL).long()
        images = self.pool.index_select(0, places.clamp(max=POOL - 1))
        return Batch(images=images, labels=None, index=index)

    def losses(self, step: Step) -> Losses:
        if step.update.name == "student":
            student, (teacher,) = step.student.require_logits(), step.teachers
            return Losses(
                task=None,
                transfer={"kd": soft_target_kl(student, teacher.require_logits(), 4.0)},
                logits=student,
            )
        student, teacher = self.student(step.batch.images), self.setup.teacher(step.batch.images)
        return Losses(task=None, transfer={"gap": -soft_target_kl(student, teacher, 4.0)}, logits=None)

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, NOISE, generator=self.setup.rng, device=self.pool.device)
