"""One run in training: what is trained, where it stands, and how it takes a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.engine.batch_counters import BatchCounters
from kdctl.engine.device import Compute
from kdctl.engine.optim import set_learning_rate
from kdctl.engine.phases import Span, divide, span_at
from kdctl.engine.seeds import derive
from kdctl.engine.selection import winning_rules
from kdctl.engine.sums import EpochSums
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Batch, Distiller, Step
from kdctl.recipe.optimization import Schedule
from kdctl.records import EpochResult, Selected, Selection, SplitMetrics


@dataclass(kw_only=True)
class Member:
    """A run that trains, alone or in a gang."""

    key: str
    seed: int
    distiller: Distiller
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    """Called at the beginning of each phase, with what it trains."""
    schedule: Schedule
    learning_rate: float
    """Before the schedule."""
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
    optimizer: torch.optim.Optimizer = field(init=False)
    """Of the running phase."""
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
    """The student's forward pass as it runs."""
    left: bool = False
    """Whether the run was taken out of its gang: someone else trains it now."""

    def __post_init__(self) -> None:
        """Start the first phase, and the sums on the device the weights are on."""
        self.counters = BatchCounters(self.distiller)
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

    def update(self, batch: Batch, teachers: tuple[Outputs, ...], num_steps: int, compute: Compute) -> None:
        """Train on one batch of an epoch of `num_steps`."""
        rate, share = self.pace(self.step, num_steps)
        set_learning_rate(self.optimizer, rate)
        self.reseed()
        # Filled on the device: a copy from the host would wait for it.
        progress = torch.full((), share, device=batch.labels.device)
        self.learn(batch, teachers, progress, compute)
        self.advance(len(batch.labels))

    def pace(self, step: int, num_steps: int) -> tuple[float, float]:
        """Return learning rate and progress at a step of the running epoch."""
        position = self.epoch + step / num_steps
        rate = self.learning_rate * self.span.rate_factor(self.schedule, position)
        return rate, self.span.share_done(position)

    def reseed(self) -> None:
        """Set the method's random numbers for the next step."""
        self.distiller.setup.rng.manual_seed(derive(self.seed, "method", self.epoch, self.step))

    def learn(self, batch: Batch, teachers: tuple[Outputs, ...], progress: Tensor, compute: Compute) -> None:
        """Do the work of one step on the device; the same work each time, so that it can be recorded."""
        distiller = self.distiller
        if self._observe is None:
            self._observe = compute.translated(distiller.student.observe)
        with compute.arithmetic(), self.counters.resting():
            student = self._observe(
                batch.images, distiller.student_taps, with_logits=distiller.reads_student_logits
            )
            step = Step(batch=batch, student=student, teachers=teachers, progress=progress)
            losses = distiller.losses(step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total())
        self.optimizer.step()
        distiller.after_update(step)
        self.sums.add(losses, batch.labels)

    def advance(self, num_images: int) -> None:
        """Count a step over `num_images` as complete."""
        self.sums.images += num_images
        self.counters.count()
        self.step += 1

    def changing(self) -> list[Tensor]:
        """Return all tensors that a step changes in place, as far as they exist yet."""
        states = self.optimizer.state.values()
        return [
            *self.distiller.parameters(),
            *self.distiller.buffers(),
            *(value for state in states for value in state.values()),
            *self.sums.tensors(),
        ]

    def result(self, test: SplitMetrics, val: SplitMetrics | None, *, num_sharing: int = 1) -> EpochResult:
        """Return the numbers of the running epoch, which has had its last step and its evaluation.

        Args:
            test: how the model does on the test split.
            val: the same on the validation split.
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
            test=test,
            val=val,
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
        here = Selected(epoch=result.epoch, test=result.test, val=result.val)
        self.selected.update({rule.value: here for rule in rules})
        self.stand_at(result.epoch, 0)
        self.train_seconds += result.seconds
        self.epoch_seconds = 0.0
        self.sums.reset()
        return rules

    def _begin_phase(self) -> None:
        self.distiller.begin(self.span.phase)
        trained = [parameter for parameter in self.distiller.parameters() if parameter.requires_grad]
        self.optimizer = self.make_optimizer(trained)
        self.sums = EpochSums(next(self.distiller.parameters()).device)
