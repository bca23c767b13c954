"""The training loop: a gang of runs in lockstep on the same batches. It knows no method.

A run on its own is a gang of one, on the same code.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor, nn

from kdctl.engine.checkpoint import model_content, write
from kdctl.engine.device import require_graphs
from kdctl.engine.evaluate import predict, split_metrics
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.graphs import GraphedSteps
from kdctl.engine.member import Member
from kdctl.engine.parted_steps import PartedSteps
from kdctl.engine.pictures import picture_epochs, picture_name, write_grid
from kdctl.engine.recorded_inputs import CannotRecordError
from kdctl.engine.resume import BackgroundWriter, state_of, write_state
from kdctl.engine.steps import EagerSteps, Steps
from kdctl.engine.streamed_batches import EvaluationImages, StreamedTrainingSet
from kdctl.engine.streams import CudaStreams
from kdctl.errors import UsageError
from kdctl.records import SHIPPED, EpochResult, ModelMetrics, Selection, checkpoint_name


class Observer(Protocol):
    """What the trainer calls after steps and epochs."""

    def step_done(self, gang: Gang) -> None:
        """Called when one step of every member is complete."""
        ...

    def epoch_done(self, member: Member, result: EpochResult) -> None:
        """Called when one epoch of one member is complete and evaluated."""
        ...


def choose_steps(gang: Gang) -> Steps:
    """Return the fastest way that a gang can take its steps on its device.

    Raises:
        UsageError: CUDA graphs are required on a device that has none, or for steps that work on the host.
    """
    device = gang.compute.device
    reason = next((member.unrecordable for member in gang.members if member.unrecordable), "")
    if isinstance(gang.data.train, StreamedTrainingSet):
        reason = "its images are streamed"
    if gang.compute.options.batch_parts > 1:
        reason = "its batch is taken in parts"
    if reason and gang.graphs == "on":
        raise UsageError(f"--graphs on: a step cannot be recorded, for {reason}.", "use --graphs auto.")
    if gang.compute.options.batch_parts > 1 or gang.ranks is not None:
        return PartedSteps(gang)
    if reason:
        return EagerSteps(gang, reason if device.type == "cuda" else "")
    if device.type == "cuda" and gang.graphs != "off":
        return GraphedSteps(gang, CudaStreams(device), required=gang.graphs == "on")
    require_graphs(gang.graphs, device)
    return EagerSteps(gang)


def begin_epoch(gang: Gang, steps: Steps) -> Steps:
    """Make ready for the running epoch of a gang; return plain steps where these cannot be recorded."""
    for member in gang.active:
        member.distiller.train()  # an evaluation left parts of it in eval mode
        member.maybe_prepare_epoch()
    if not gang.active:
        return steps
    try:
        steps.begin_epoch()
    except CannotRecordError as error:
        steps = EagerSteps(gang, str(error))
        steps.begin_epoch()
    return steps


def fit(
    gang: Gang,
    observer: Observer,
    *,
    stop: Callable[[], bool] = lambda: False,
    until: int | None = None,
    steps: Steps | None = None,
) -> bool:
    """Train every member to its last epoch; return False when `stop` or `until` ended it early.

    All members stand at the same step. At an early end each has saved its state, so that training
    goes on bit for bit from there; so it does after a crash, from up to `save_state_seconds` earlier.
    A state saved on the way stays until the caller discards it, once the results are safe.

    Args:
        gang: the runs.
        observer: is told how they go.
        stop: asked before every step.
        until: the epoch after which to pause; no part of what a run is.
        steps: how steps are taken; None: as `choose_steps` says.

    Raises:
        ValueError: the members differ in place, seed or length.
        KdctlError: the steps cannot be taken as required, or a checkpoint cannot be written.
    """
    if len({(member.epoch, member.step, member.seed, member.schedule.epochs) for member in gang.members}) > 1:
        raise ValueError("the members of a gang must stand at the same step and share seed and length")
    last = gang.num_epochs if until is None else min(until, gang.num_epochs)
    with BackgroundWriter() as writer:
        training = _Training(gang, observer, steps or choose_steps(gang), writer)
        while gang.active and gang.active[0].epoch < last:
            if not training.train_epoch(stop):
                break
            training.close_epoch()
        is_early = any(member.epoch < gang.num_epochs for member in gang.active)
        if is_early:
            training.save_states()
    return not is_early


class _Training:
    """A gang on its way, with its clocks."""

    def __init__(self, gang: Gang, observer: Observer, steps: Steps, writer: BackgroundWriter) -> None:
        self.gang = gang
        self.observer = observer
        self.steps = steps
        self.writer = writer
        self._lap_began = self._saved_at = time.perf_counter()

    def train_epoch(self, stop: Callable[[], bool]) -> bool:
        """Take the steps that are left of the running epoch; False when `stop` said so."""
        gang = self.gang
        for member in gang.active:
            self._maybe_evaluate_before(member)
        self.steps = begin_epoch(gang, self.steps)
        if not gang.active:  # every member diverged while its method prepared the epoch
            return True
        for member in gang.active:
            member.execution = self.steps.executed_as(member)
        for _ in range(gang.active[0].step, gang.data.train.num_steps):
            stopped, is_due = self._agreed(stop())
            if stopped:
                return False
            self.steps.take()
            self.observer.step_done(gang)
            if not gang.active:  # other processes have taken all of them over
                return True
            if is_due or (gang.ranks is None and self._state_is_due()):
                self.save_states()
        return True

    def _agreed(self, stopped: bool) -> tuple[bool, bool]:
        """Return whether to stop, and whether several processes agree to save after the next step.

        All processes must leave the loop at the same step, or those that stay would wait for the others'
        gradients for ever; their clocks and signals differ.
        """
        if self.gang.ranks is None:
            return stopped, False
        stopped, is_due = self.gang.ranks.any([stopped, self._state_is_due()])
        return stopped, is_due

    def _state_is_due(self) -> bool:
        return time.perf_counter() - self._saved_at > self.gang.save_state_seconds

    def close_epoch(self) -> None:
        """Evaluate all members, then record the epoch of those that did not diverge."""
        members, data = self.gang.active, self.gang.data
        self.steps.join()  # the streams of the members may still be changing weights
        for member in members:
            member.counters.flush()
        models = [_models(member) for member in members]
        logits = [
            {
                name: self._logits(functools.partial(self.steps.predict, member, name, model))
                for name, model in named.items()
            }
            for member, named in zip(members, models, strict=True)
        ]
        self.steps.join()  # until now the logits are only queued
        metrics = [{name: _metrics(both, data) for name, both in named.items()} for named in logits]
        self._lap()
        for member, named, found in zip(members, models, metrics, strict=True):
            result = member.result(found.pop(SHIPPED), found, num_sharing=len(members))
            member.diverged = _divergence(result, member.distiller.first_not_finite)
            if not member.diverged:  # else a method would be asked about weights that are no numbers
                told = {**result.metrics, **member.distiller.epoch_metrics()}
                self._record(member, replace(result, metrics=told), named)

    def save_states(self) -> None:
        """Save where every member stands.

        The writer keeps the order, so a state never lies on the disk before the checkpoints it rests on.
        """
        self.steps.join()
        self._lap()
        for member in self.gang.active if self.gang.writes else ():
            self.writer.write(functools.partial(write_state, member.folder, state_of(member)))
        self._saved_at = time.perf_counter()

    def _maybe_evaluate_before(self, member: Member) -> None:
        """Evaluate the other classifiers of a run that has not taken a step yet."""
        if (member.epoch, member.step) != (0, 0):
            return
        data, compute = self.gang.data, self.gang.compute
        for model in member.classifiers:
            logits = self._logits(functools.partial(predict, model.module, compute=compute))
            member.models_before[model.name] = _metrics(logits, data)

    def _logits(self, predict_split: Callable[[EvaluationImages], Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the logits of test and validation split; `predict_split` may only have queued them."""
        test, val = self.gang.data.test, self.gang.data.val
        return predict_split(test), None if val is None else predict_split(val)

    def _record(self, member: Member, result: EpochResult, models: dict[str, nn.Module]) -> None:
        rules = member.close_epoch(result)
        is_last = member.epoch == self.gang.num_epochs
        kept = [rule for rule in rules if is_last or rule is not Selection.LAST]
        kept = kept if self.gang.writes else []
        others = {model.name: model.module for model in member.distiller.all_models()}
        for name, model in {**models, **others}.items() if kept else ():
            content = model_content(model, member.plan)
            for rule in kept:
                path = member.folder / checkpoint_name(rule, name)
                self.writer.write(functools.partial(write, path, content))
        self._maybe_take_picture(member)
        self.observer.epoch_done(member, result)

    def _maybe_take_picture(self, member: Member) -> None:
        """Write a picture of the images that a method makes, after some of the epochs."""
        if member.epoch not in picture_epochs(self.gang.num_epochs):
            return
        images = member.distiller.invented_images()
        if images is not None:
            pixels = self.gang.data.test.normalise.pixels(images).cpu()
            path = member.folder / picture_name(member.epoch)
            self.writer.write(functools.partial(write_grid, path, pixels))

    def _lap(self) -> None:
        """Charge the time since the last lap to every member: a gang shares it."""
        now = time.perf_counter()
        for member in self.gang.active:
            member.epoch_seconds += now - self._lap_began
        self._lap_began = now


def _models(member: Member) -> dict[str, nn.Module]:
    """Return the models of a run that are evaluated by name: the shipped one, and the other classifiers."""
    others = {model.name: model.module for model in member.classifiers}
    return {SHIPPED: member.distiller.inference_model(), **others}


def _metrics(logits: tuple[Tensor, Tensor | None], data: TrainingData) -> ModelMetrics:
    """Return what logits on test and validation split say."""
    test, val = logits
    return ModelMetrics(
        test=split_metrics(test, data.test.labels),
        val=None if data.val is None or val is None else split_metrics(val, data.val.labels),
    )


def _divergence(result: EpochResult, first_not_finite: Callable[[], Sequence[str]]) -> str:
    """Say which loss is not a number any more, and with whom it began where that is known; empty if all are.

    The last update of an epoch may spoil the weights after the last training loss was taken, so the
    losses of the evaluation count as well.
    """
    losses = {f"the loss '{name}'": value for name, value in result.train_terms.items()}
    shipped = ModelMetrics(test=result.test, val=result.val)
    for name, metrics in {SHIPPED: shipped, **result.models}.items():
        whose = f" of '{name}'" if name else ""
        losses[f"the loss{whose} on the test split"] = metrics.test.loss
        if metrics.val is not None:
            losses[f"the loss{whose} on the validation split"] = metrics.val.loss
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    updates = dict.fromkeys(
        name.partition(".")[0] for name, value in result.train_terms.items() if not math.isfinite(value)
    )
    if not bad:
        return ""
    began = first_not_finite()
    with_whom = f"; it began with {' and '.join(began)}" if began else ""
    if len(updates) > 1 and all("." in name for name in result.train_terms):
        return f"the losses of {' and '.join(updates)} are not finite in epoch {result.epoch}{with_whom}"
    return f"{bad[0]} is not finite in epoch {result.epoch}{with_whom}"
