"""The training loop: a gang of runs in lockstep on the same batches. It knows no method.

A run on its own is a gang of one, on the same code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kdctl.engine.batches import EvaluationSet, TrainingSet
from kdctl.engine.checkpoint import write_model
from kdctl.engine.device import Compute
from kdctl.engine.evaluate import predict, split_metrics
from kdctl.engine.member import Member
from kdctl.engine.resume import save_state
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Batch
from kdctl.records import EpochResult, Selection, SplitMetrics

SAVE_STATE_SECONDS = 60.0
"""At most so much work is lost when a process is killed (a signal loses none)."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The splits on the device."""

    train: TrainingSet
    val: EvaluationSet | None
    test: EvaluationSet


class Observer(Protocol):
    """Hears what happens in training."""

    def step_done(self, gang: Gang) -> None:
        """One step of every member is complete."""
        ...

    def epoch_done(self, member: Member, result: EpochResult) -> None:
        """One epoch of one member is complete and evaluated."""
        ...


@dataclass(kw_only=True)
class Gang:
    """Runs that share batches and frozen teachers: same data, seed and length."""

    members: list[Member]
    teachers: Sequence[Backbone]
    """As the engine runs them (`engine/frozen.py`)."""
    data: TrainingData
    compute: Compute
    save_state_seconds: float = SAVE_STATE_SECONDS
    """Between two savings of the members' states."""

    @property
    def active(self) -> list[Member]:
        """Members that still train."""
        return [member for member in self.members if not (member.diverged or member.left)]

    @property
    def num_epochs(self) -> int:
        """Length of the runs."""
        return self.members[0].schedule.epochs

    @torch.no_grad()
    def watch_teachers(self, images: Tensor) -> tuple[Outputs, ...]:
        """Run each teacher once, as far as any member needs."""
        outputs: list[Outputs] = []
        for place, teacher in enumerate(self.teachers):
            distillers = [member.distiller for member in self.active]
            taps = {tap for distiller in distillers for tap in distiller.teacher_taps[place]}
            with_logits = any(distiller.reads_teacher_logits for distiller in distillers)
            seen = teacher.observe(images, sorted(taps), with_logits=with_logits)
            # In whatever precision a teacher computes, methods compare in fp32.
            widened = {tap: features.float() for tap, features in seen.taps.items()}
            outputs.append(Outputs(logits=seen.logits, taps=widened))
        return tuple(outputs)


def fit(gang: Gang, observer: Observer, *, stop: Callable[[], bool] = lambda: False) -> bool:
    """Train every member to its last epoch; return False when `stop` ended it early.

    All members stand at the same step. At an early end each has saved its state, so that training
    goes on bit for bit from there; so it does after a crash, from up to `save_state_seconds` earlier.
    A state saved on the way stays until the caller discards it, once the results are safe.

    Raises:
        ValueError: the members differ in place, seed or length.
    """
    if len({(member.epoch, member.step, member.seed, member.schedule.epochs) for member in gang.members}) > 1:
        raise ValueError("the members of a gang must stand at the same step and share seed and length")
    training = _Training(gang, observer)
    while gang.active and gang.active[0].epoch < gang.num_epochs:
        if not training.train_epoch(stop):
            training.save_states()
            return False
        training.close_epoch()
    return True


class _Training:
    """A gang on its way, with its clocks."""

    def __init__(self, gang: Gang, observer: Observer) -> None:
        self.gang = gang
        self.observer = observer
        self._lap_began = self._saved_at = time.perf_counter()

    def train_epoch(self, stop: Callable[[], bool]) -> bool:
        """Take the steps that are left of the running epoch; False when `stop` said so."""
        first, train = self.gang.active[0], self.gang.data.train
        order = train.order(first.seed, first.epoch)
        for member in self.gang.active:
            member.distiller.train()  # an evaluation left parts of it in eval mode
        for step in range(first.step, train.num_steps):
            if stop():
                return False
            self._train_step(train.batch(order, step))
            if time.perf_counter() - self._saved_at > self.gang.save_state_seconds:
                self.save_states()
        return True

    def close_epoch(self) -> None:
        """Evaluate all members, then record the epoch of those that did not diverge."""
        gang = self.gang
        members = gang.active
        models = [member.distiller.inference_model() for member in members]
        scores = [_evaluate(model, gang) for model in models]
        self._lap()
        for member, model, (test, val) in zip(members, models, scores, strict=True):
            result = member.result(test, val)
            member.diverged = _divergence(result)
            if not member.diverged:
                self._record(member, result, model)

    def save_states(self) -> None:
        """Save where every member stands."""
        self._lap()
        for member in self.gang.active:
            save_state(member)
        self._saved_at = time.perf_counter()

    def _train_step(self, batch: Batch) -> None:
        gang = self.gang
        teachers = gang.watch_teachers(batch.images)
        for member in gang.active:
            member.update(batch, teachers, gang.data.train.num_steps, gang.compute)
        self.observer.step_done(gang)

    def _record(self, member: Member, result: EpochResult, model: nn.Module) -> None:
        for rule in member.close_epoch(result):
            if rule is not Selection.LAST or member.epoch == self.gang.num_epochs:
                write_model(member.folder / f"{rule.value}.pt", model, member.plan)
        self.observer.epoch_done(member, result)

    def _lap(self) -> None:
        """Charge the time since the last lap to every member: a gang shares it."""
        now = time.perf_counter()
        for member in self.gang.active:
            member.epoch_seconds += now - self._lap_began
        self._lap_began = now


def _evaluate(model: nn.Module, gang: Gang) -> tuple[SplitMetrics, SplitMetrics | None]:
    """Return how a model does on test and validation split."""
    test, val = gang.data.test, gang.data.val
    return (
        split_metrics(predict(model, test, gang.compute), test.labels),
        None if val is None else split_metrics(predict(model, val, gang.compute), val.labels),
    )


def _divergence(result: EpochResult) -> str:
    """Say which loss is not a number any more; empty if all are.

    The last update of an epoch may spoil the weights after the last training loss was taken, so the
    losses of the evaluation count as well.
    """
    losses = {f"the loss '{name}'": value for name, value in result.train_terms.items()}
    losses["the loss on the test split"] = result.test.loss
    if result.val is not None:
        losses["the loss on the validation split"] = result.val.loss
    bad = next((name for name, value in losses.items() if not math.isfinite(value)), None)
    return f"{bad} is not finite in epoch {result.epoch}" if bad else ""
