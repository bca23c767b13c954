"""One run in training: what is trained, where it stands, and how it takes a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdctl.engine.batch_counters import BatchCounters
from kdctl.engine.device import Compute
from kdctl.engine.epochs import EpochSums, winning_rules
from kdctl.engine.optim import GroupOptimizer, set_learning_rate
from kdctl.engine.phases import SchedulePoint, Span, divide, span_at
from kdctl.engine.seeds import derive
from kdctl.engine.teacher_outputs import RunTeachers
from kdctl.engine.two_momenta import compute_gradients
from kdctl.layers.moving_average import MovingAverage
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Distiller, NamedModel, ParameterGroup
from kdctl.protocols.step import Batch, DivergedError, Losses, Step, Update
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.optimization import Schedule
from kdctl.records import EpochResult, ModelMetrics, Selected, Selection


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """What a member is given for a step, all of it on the device."""

    batch: Batch
    teachers: tuple[Outputs, ...]
    progress: Tensor
    """0-dim."""
    learning_rate: Tensor
    """0-dim: the recipe's."""


@dataclass(kw_only=True)
class Member:
    """A run that trains, alone or in a gang."""

    key: str
    seed: int
    distiller: Distiller
    make_optimizers: Callable[[Sequence[ParameterGroup]], tuple[GroupOptimizer, ...]]
    """Called at the beginning of each phase, with what it trains."""
    schedule: Schedule
    learning_rate: float
    """The recipe's, which the schedule multiplies."""
    folder: Path
    """Where its checkpoints go."""
    plan: Mapping[str, Any]
    """Its resolved plan, written into every checkpoint."""
    epoch: int = 0
    """Epochs that are complete."""
    step: int = 0
    """Steps of the running epoch that are complete."""
    spans: tuple[Span, ...] = field(init=False)
    """Its phases, in their order."""
    optimizers: tuple[GroupOptimizer, ...] = field(init=False)
    """Of the running phase, one for each parameter group."""
    prepared_epochs: int = 0
    """How many epochs have had their preparation (`Distiller.prepare_epoch`)."""
    models_before: dict[str, ModelMetrics] = field(default_factory=dict[str, ModelMetrics])
    """How the other classifiers of the run did before the training, by name."""
    sums: EpochSums = field(init=False)
    """Of the running epoch."""
    epoch_seconds: float = 0.0
    """Wall time of the running epoch so far, time before a resume included."""
    train_seconds: float = 0.0
    """Wall time of the epochs that are complete."""
    selected: dict[str, Selected] = field(default_factory=dict[str, Selected])
    """By selection rule, of the epochs that are complete."""
    diverged: str = ""
    """Why the run cannot go on; empty while it can."""
    execution: str = "eager"
    """How its steps are executed, for the record."""
    counters: BatchCounters = field(init=False)
    """Of its batch norms."""
    _observe: Callable[..., Outputs] | None = field(init=False, default=None)
    """The student's forward pass as `Compute.translated` returns it; None before the first step."""
    left: bool = False
    """Whether the run was taken out of its gang: someone else trains it now."""
    generates: bool = field(init=False)
    """Whether the method makes its own training images."""

    def __post_init__(self) -> None:
        """Start the first phase, and the sums on the device the weights are on."""
        self.counters = BatchCounters(self.distiller)
        self.generates = isinstance(self.distiller.config, GeneratedImages)
        self.spans = divide(self.distiller.phases(), self.schedule.epochs)
        self._begin_phase()

    @property
    def span(self) -> Span:
        """The running phase."""
        return span_at(self.spans, self.epoch)

    def stand_at(self, epoch: int, step: int) -> None:
        """Stand after so many epochs and steps; another phase begins with an optimizer of its own."""
        before = self.span
        self.epoch, self.step = epoch, step
        if self.span is not before:
            self._begin_phase()

    @property
    def classifiers(self) -> tuple[NamedModel, ...]:
        """The other models of the run that are evaluated."""
        return tuple(model for model in self.distiller.all_models() if model.is_classifier)

    @property
    def unrecordable(self) -> str:
        """Why its steps do work on the host that no record repeats; empty if they do not."""
        if all(part.recordable for part in self.optimizers):
            return ""
        return "the optimizer's step is not recorded"

    def maybe_prepare_epoch(self) -> None:
        """Let the method prepare the running epoch, unless it did so before the run was resumed."""
        if self.prepared_epochs > self.epoch:
            return
        self.distiller.setup.rng.manual_seed(derive(self.seed, "prepare", self.epoch))
        try:
            self.distiller.prepare_epoch(first_of_phase=self.epoch == self.span.first)
        except DivergedError as error:
            self.diverged = f"{error} before epoch {self.epoch + 1}"
            return
        self.prepared_epochs = self.epoch + 1

    def update(
        self,
        batch: Batch,
        teachers: tuple[Outputs, ...],
        num_steps: int,
        compute: Compute,
        run_teachers: RunTeachers,
    ) -> None:
        """Take one eager step of an epoch of `num_steps`; `advance` counts it."""
        progress, learning_rate = self.set_learning_rates(num_steps)
        self.reseed()
        inputs = StepInputs(batch=batch, teachers=teachers, progress=progress, learning_rate=learning_rate)
        self.learn(inputs, compute, run_teachers)

    def set_learning_rates(self, num_steps: int) -> tuple[Tensor, Tensor]:
        """Give the optimizers their rates for the next step of an epoch of `num_steps`.

        Returns:
            The step's progress and the recipe's learning rate, 0-dim, on the device.
        """
        point = self.schedule_at(self.step, num_steps)
        for part, rate in zip(self.optimizers, point.group_rates, strict=True):
            set_learning_rate(part.optimizer, rate)
        device = next(self.distiller.parameters()).device
        # Filled on the device: a copy from the host would wait for it.
        return (
            torch.full((), point.progress, device=device),
            torch.full((), point.learning_rate, device=device),
        )

    def schedule_at(self, step: int, num_steps: int) -> SchedulePoint:
        """Return learning rates and progress at a step of the running epoch."""
        position = self.epoch + step / num_steps
        factor = self.span.rate_factor(self.schedule, position)
        return SchedulePoint(
            progress=self.span.share_done(position),
            learning_rate=self.learning_rate * factor,
            group_rates=tuple(part.learning_rate * factor for part in self.optimizers),
        )

    def reseed(self, part: int | None = None) -> None:
        """Set the method's random numbers for the next step, or for one part of its batch."""
        names = ("method", self.epoch, self.step) + (() if part is None else (part,))
        self.distiller.setup.rng.manual_seed(derive(self.seed, *names))

    def learn(self, inputs: StepInputs, compute: Compute, run_teachers: RunTeachers) -> None:
        """Do the work of one step on the device.

        Nothing looks at a value there, so a CUDA graph can record it.
        """
        for update in self.distiller.updates():
            for repeat in range(update.repeats):
                step, losses = self.forward(update, inputs, compute, run_teachers)
                self._backward(update, losses)
                self.distiller.after_update(step)
                self.sums.add(losses, step.batch, update, repeat=repeat)
        self.maybe_update_average()

    def maybe_update_average(self) -> None:
        """Let the moving average of the shipped model follow it, where one is kept."""
        if isinstance(self.distiller.shipped_average, MovingAverage):
            self.distiller.shipped_average.update(self.distiller.inference_model())

    def forward(
        self, update: Update, inputs: StepInputs, compute: Compute, run_teachers: RunTeachers
    ) -> tuple[Step, Losses]:
        """Run the student, and the method on the outputs of student and teachers."""
        distiller = self.distiller
        if self._observe is None:
            self._observe = compute.translated(distiller.student.observe)
        batch, teachers = inputs.batch, inputs.teachers
        with compute.arithmetic(), self.counters.resting():
            if self.generates:
                batch = distiller.make_batch(update)
                teachers = run_teachers(batch.images) if update.reads else ()
            student = Outputs(logits=None)
            if update.reads:
                student = self._observe(
                    batch.images, distiller.student_taps, with_logits=distiller.reads_student_logits
                )
            step = Step(
                batch=batch,
                student=student,
                teachers=teachers,
                progress=inputs.progress,
                learning_rate=inputs.learning_rate,
                update=update,
            )
            return step, distiller.losses(step)

    def _backward(self, update: Update, losses: Losses) -> None:
        """Train the parameter groups of an update."""
        optimizers = [part for part in self.optimizers if update.groups is None or part.name in update.groups]
        for part in optimizers:
            part.optimizer.zero_grad(set_to_none=True)
        trained = [part.optimizer for part in optimizers]
        compute_gradients(losses, trained, trains_all=update.groups is None)
        for part in optimizers:
            part.step()

    def advance(self, num_images: int) -> None:
        """Count a step over `num_images` as complete."""
        self.sums.images += num_images
        self.counters.count()
        self.step += 1

    def changing(self) -> list[Tensor]:
        """Return all tensors that a step changes in place, as far as they exist yet."""
        states = [state for part in self.optimizers for state in part.optimizer.state.values()]
        return [
            *self.distiller.parameters(),
            *self.distiller.buffers(),
            *(value for state in states for value in state.values()),
            *self.sums.tensors(),
        ]

    def result(
        self, shipped: ModelMetrics, others: Mapping[str, ModelMetrics], *, num_sharing: int = 1
    ) -> EpochResult:
        """Return the numbers of the running epoch, which has had its last step and its evaluation.

        Args:
            shipped: how the model does that would be shipped.
            others: how the run's other classifiers do, by name.
            num_sharing: how many runs shared the device.
        """
        terms, train_top1 = self.sums.means()
        return EpochResult(
            epoch=self.epoch + 1,
            phase=self.span.phase.name,
            learning_rate=self.learning_rate * self.span.rate_factor(self.schedule, self.epoch),
            train_loss=sum(terms.values()),
            train_terms=terms,
            train_top1=train_top1,
            metrics=self.sums.metrics(),
            test=shipped.test,
            val=shipped.val,
            models=dict(others),
            seconds=self.epoch_seconds,
            device_seconds=self.epoch_seconds / num_sharing,
            images_per_second=self.sums.images / self.epoch_seconds,
            ended=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def close_epoch(self, result: EpochResult) -> tuple[Selection, ...]:
        """Count the epoch as complete and return the selection rules that now pick it.

        None do before the last phase: a model of an earlier one is not what the run ships.
        """
        rules = winning_rules(result, self.selected) if self.span is self.spans[-1] else ()
        here = Selected(epoch=result.epoch, test=result.test, val=result.val, models=result.models)
        self.selected.update({rule.value: here for rule in rules})
        self.stand_at(result.epoch, 0)
        self.train_seconds += result.seconds
        self.epoch_seconds = 0.0
        self.sums.reset()
        return rules

    def _begin_phase(self) -> None:
        self.distiller.begin(self.span.phase)
        groups = self.distiller.optimized()
        self.optimizers = self.make_optimizers(groups)
        named = {name for update in self.distiller.updates() for name in update.groups or ()}
        if unknown := named - {group.name for group in groups}:
            raise ValueError(f"an update names unknown parameter groups: {', '.join(sorted(unknown))}")
        self.sums = EpochSums(next(self.distiller.parameters()).device)
