"""The steps of a gang as CUDA graphs: recorded once, then replayed.

At batch 64 a GPU waits for the host, which launches some hundred small kernels for each step. So the work
of a step is recorded once, as CUDA graphs, and replayed: one graph makes the batch, one runs the teachers
ahead, then comes one for each member, all on streams of their own, so that small kernels overlap. A member
that leaves is simply not replayed any more; a run on its own is a gang of one.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdctl.engine.batches import EpochOrder
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.optim import GroupOptimizer
from kdctl.engine.recorded_inputs import WARM_UP_RUNS, CannotRecordError, RecordedInputs, first_line
from kdctl.engine.recorded_work import RecordedEvaluation, RecordedStep
from kdctl.engine.streamed_batches import EvaluationImages, StreamedEvaluationSet
from kdctl.engine.streams import Stream, Streams, Work
from kdctl.errors import KdctlError

_log = logging.getLogger(__name__)

RECORDED = "graphs"
"""How the steps of a member are executed that are replayed."""

_UNSAFE = "the method says that its steps cannot be recorded"


@dataclass(kw_only=True)
class _RecordedMember:
    """A member on its stream, with its records."""

    member: Member
    stream: Stream
    step: RecordedStep
    optimizers: tuple[GroupOptimizer, ...]
    """Those that the recorded steps use; a new phase has others, and is recorded anew."""
    steps: dict[int, Work] = field(default_factory=dict[int, Work])
    """By the number of images in the batch."""
    evaluations: list[tuple[RecordedEvaluation, Work]] = field(
        default_factory=list[tuple[RecordedEvaluation, Work]]
    )
    reason: str = ""
    """Why its steps are not recorded; empty if they are."""


class GraphedSteps:
    """Records the steps of a gang when its first epoch begins, and replays them."""

    def __init__(self, gang: Gang, streams: Streams, *, required: bool = False) -> None:
        """Nothing is recorded yet.

        Args:
            gang: whose steps to take.
            streams: where work is queued.
            required: whether to stop with an error, rather than go on eagerly, where a record fails.
        """
        self._gang = gang
        self._streams = streams
        self._required = required
        self._inputs = RecordedInputs(gang, streams)
        self._entries: dict[int, _RecordedMember] = {}
        """By the identity of the member: a benchmark repeats runs."""
        self._warned: set[str] = set()

    def begin_epoch(self) -> None:
        """Write order, learning rates and progress of the epoch to where recorded steps read them.

        What is not recorded yet, of the first epoch or of a new phase, is recorded first.

        Raises:
            CannotRecordError: the gang must take its steps in another way.
            KdctlError: records are required, and something cannot be recorded.
        """
        self.join()  # no stream may still read what is written now
        members = self._gang.active
        first = members[0]
        order = self._gang.data.train.order(first.seed, first.epoch)
        if any(self._is_new(member) for member in members):
            self._record(members, order)
            self.join()
        current = self._streams.current()
        self._inputs.begin_epoch(order, first.step, current)
        for member in members:
            self._entries[id(member)].step.begin_epoch()
        for member in members:
            self._entries[id(member)].stream.wait_for(current)

    def take(self) -> None:
        """Replay the next step of every active member."""
        members = self._gang.active
        size = self._gang.data.train.size(members[0].step)
        self._inputs.advance(members[0].step)
        for member in members:
            entry = self._entries[id(member)]
            member.reseed()  # a replay reads seed and offset of the generator as they are when it is queued
            entry.stream.wait_for(self._inputs.stream)
            entry.stream.run(entry.steps[size])
            member.advance(size)
        for member in members:  # the next batch goes where they read this one
            self._inputs.stream.wait_for(self._entries[id(member)].stream)

    def predict(self, member: Member, name: str, model: nn.Module, images: EvaluationImages) -> Tensor:
        """Replay the evaluation of a member's model; return where its logits [N, K] will lie.

        Where other processes decode the images, nothing is recorded: a replay would not wait for them.
        """
        entry = self._entries[id(member)]
        entry.stream.wait_for(self._streams.current())
        if isinstance(images, StreamedEvaluationSet):
            evaluation = RecordedEvaluation(name, model, images, self._gang.compute)
            entry.stream.run(evaluation.run)
            return evaluation.logits
        found = next(
            (evaluation for evaluation in entry.evaluations if evaluation[0].fits(name, model, images)), None
        )
        if found is None:
            found = self._record_evaluation(
                entry, RecordedEvaluation(name, model, images, self._gang.compute)
            )
        evaluation, work = found
        entry.stream.run(functools.partial(evaluation.copy_weights, model))
        entry.stream.run(work)
        return evaluation.logits

    def join(self) -> None:
        """Let the current stream, on which all other code queues its work, wait for every stream here."""
        current = self._streams.current()
        for stream in (*self._inputs.streams, *(entry.stream for entry in self._entries.values())):
            current.wait_for(stream)

    def executed_as(self, member: Member) -> str:
        """Say whether a member's steps are replayed, and if not, why."""
        reason = self._entries[id(member)].reason
        if reason:
            return f"eager: {reason}"
        return RECORDED if self._gang.table is None else f"{RECORDED}, teacher outputs kept"

    def _is_new(self, member: Member) -> bool:
        entry = self._entries.get(id(member))
        return entry is None or entry.optimizers is not member.optimizers

    def _record(self, members: list[Member], order: EpochOrder) -> None:
        """Record whole and last batch: what all share, then every member, on a real batch."""
        gang, streams = self._gang, {key: entry.stream for key, entry in self._entries.items()}
        with self._refusing():
            self._inputs.open(order)
        self._entries = {
            id(member): _RecordedMember(
                member=member,
                stream=streams.get(id(member)) or self._streams.open(),
                step=RecordedStep(member, self._inputs.batches, gang),
                optimizers=member.optimizers,
            )
            for member in members
        }
        for entry in self._entries.values():
            entry.step.begin_epoch()
        last = gang.data.train.num_steps - 1
        for step in sorted({gang.data.train.size(step): step for step in (last, 0)}.values()):
            with self._refusing():
                self._inputs.record_batch(step)
            for entry in self._entries.values():
                self._record_step(entry, step)
        for entry in self._entries.values():
            entry.step.forget_start()

    @contextmanager
    def _refusing(self) -> Generator[None]:
        """Say why batches or teachers cannot be recorded."""
        try:
            yield
        except CannotRecordError as error:
            self._refuse(None, str(error), error)
            raise

    def _record_step(self, entry: _RecordedMember, step: int) -> None:
        member, size = entry.member, self._gang.data.train.size(step)
        work = functools.partial(entry.step.learn, size)

        def warm_up() -> None:
            try:
                for _ in range(WARM_UP_RUNS):
                    member.reseed()
                    work()
            finally:
                entry.step.undo_warm_up()

        entry.steps[size] = work
        if not member.distiller.graph_safe:
            entry.reason = _UNSAFE
            self._refuse(entry, _UNSAFE)
        if entry.reason:
            return
        entry.stream.wait_for(self._inputs.stream)
        try:
            entry.steps[size] = entry.stream.record(
                work, warm_up=warm_up, randomness=member.distiller.setup.rng
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            entry.reason = f"a step cannot be recorded ({first_line(error)})"
            self._refuse(entry, entry.reason, error)

    def _record_evaluation(
        self, entry: _RecordedMember, evaluation: RecordedEvaluation
    ) -> tuple[RecordedEvaluation, Work]:
        work: Work = evaluation.run
        try:
            work = entry.stream.record(evaluation.run, warm_up=evaluation.run)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refuse(entry, f"its evaluation cannot be recorded ({first_line(error)})", error)
        entry.evaluations.append((evaluation, work))
        return evaluation, work

    def _refuse(self, entry: _RecordedMember | None, reason: str, error: Exception | None = None) -> None:
        """Say once that, and why, something is not recorded."""
        what = f"run {entry.member.key}: {reason}" if entry else reason
        if self._required:
            raise KdctlError(f"{what}.", "use --graphs auto, which goes on without.") from error
        if what not in self._warned:
            _log.warning("%s: it is executed eagerly", what)
        self._warned.add(what)
