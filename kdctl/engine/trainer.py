"""The training loop: a gang of runs in lockstep on the same batches. It knows no method.

A run on its own is a gang of one, on the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdctl.engine.batches import EvaluationSet, TrainingSet
from kdctl.engine.device import Compute
from kdctl.engine.evaluate import predict, split_metrics
from kdctl.engine.member import RESUME_FILE, Member
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.records import EpochResult, Selection

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
    data: TrainingData
    compute: Compute

    @property
    def active(self) -> list[Member]:
        """Members that still train."""
        return [member for member in self.members if not member.diverged]

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
            with self.compute.arithmetic():
                outputs.append(teacher.observe(images, sorted(taps), with_logits=with_logits))
        return tuple(outputs)


def fit(gang: Gang, observer: Observer, *, stop: Callable[[], bool] = lambda: False) -> bool:
    """Train every member to its last epoch; return False when `stop` ended it early.

    All members stand at the same step. At an early end each has saved its state, so that training
    goes on bit for bit from there; so it does after a crash, from up to `SAVE_STATE_SECONDS` earlier.
    """
    first = gang.members[0]
    if any(
        (member.epoch, member.step, member.seed) != (first.epoch, first.step, first.seed)
        for member in gang.members
    ):
        raise ValueError("the members of a gang must stand at the same step and share a seed")
    saved_at = time.monotonic()
    while gang.active and gang.active[0].epoch < gang.num_epochs:
        began = time.monotonic()
        if not _train_epoch(gang, observer, stop):
            for member in gang.active:
                member.save_state()
            return False
        for member in gang.active:
            _finish_epoch(gang, member, observer, began)
        if time.monotonic() - saved_at > SAVE_STATE_SECONDS:
            for member in gang.active:
                member.save_state()
            saved_at = time.monotonic()
    for member in gang.members:
        (member.folder / RESUME_FILE).unlink(missing_ok=True)
    return True


def _train_epoch(gang: Gang, observer: Observer, stop: Callable[[], bool]) -> bool:
    first = gang.active[0]
    train = gang.data.train
    order = train.order(first.seed, first.epoch)
    for member in gang.active:
        member.distiller.train()
    for step in range(first.step, train.num_steps):
        if stop():
            return False
        batch = train.batch(order, step)
        teachers = gang.watch_teachers(batch.images)
        for member in gang.active:
            member.update(batch, teachers, train.num_steps, gang.compute)
        observer.step_done(gang)
    return True


def _finish_epoch(gang: Gang, member: Member, observer: Observer, began: float) -> None:
    terms, train_top1 = member.sums.means()
    member.check_finite(terms)
    if member.diverged:
        return
    model = member.distiller.inference_model()
    test, val = gang.data.test, gang.data.val
    result = EpochResult(
        epoch=member.epoch + 1,
        learning_rate=member.learning_rate * member.schedule.factor(member.epoch),
        train_loss=sum(terms.values()),
        train_terms=terms,
        train_top1=train_top1,
        test=split_metrics(predict(model, test, gang.compute), test.labels),
        val=None if val is None else split_metrics(predict(model, val, gang.compute), val.labels),
        seconds=time.monotonic() - began,
        images_per_second=member.sums.images / (time.monotonic() - began),
    )
    is_last = result.epoch == gang.num_epochs
    for rule in member.close_epoch(result):
        if rule is not Selection.LAST or is_last:
            member.save_model(rule)
    observer.epoch_done(member, result)
