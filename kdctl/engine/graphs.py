"""Taking the steps of a gang by replaying records of them.

At batch 64 a GPU waits for the host, which launches some hundred small kernels for each step. So the work
of a step is recorded once, as CUDA graphs, and replayed: one graph makes the batch, one runs the teachers
ahead, then comes one for each member, all on lanes of their own, so that small kernels overlap. A member
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

from kdctl.engine.batches import EpochOrder, EvaluationSet
from kdctl.engine.gang import Gang
from kdctl.engine.lanes import Lane, Lanes, Work
from kdctl.engine.member import Member
from kdctl.engine.pieces import Exam, Pupil
from kdctl.engine.supply import REHEARSALS, CannotRecordError, Supply, first_line
from kdctl.errors import KdctlError

_log = logging.getLogger(__name__)

RECORDED = "graphs"
"""How the steps of a member are executed that are replayed."""

_UNSAFE = "the method says that its steps cannot be recorded"


@dataclass(kw_only=True)
class _Track:
    """A member on its lane, with its records."""

    member: Member
    lane: Lane
    pupil: Pupil
    optimizer: torch.optim.Optimizer
    """Of the phase that the records are of."""
    steps: dict[int, Work] = field(default_factory=dict[int, Work])
    """By the number of images in the batch."""
    exams: list[tuple[Exam, Work]] = field(default_factory=list[tuple[Exam, Work]])
    reason: str = ""
    """Why its steps are not recorded; empty if they are."""


class GraphedSteps:
    """Records the steps of a gang when its first epoch begins, and replays them."""

    def __init__(self, gang: Gang, lanes: Lanes, *, required: bool = False) -> None:
        """Nothing is recorded yet.

        Args:
            gang: whose steps to take.
            lanes: where work is queued.
            required: whether to stop with an error, rather than go on eagerly, where a record fails.
        """
        self._gang = gang
        self._lanes = lanes
        self._required = required
        self._supply = Supply(gang, lanes)
        self._tracks: dict[int, _Track] = {}
        """By the identity of the member: a benchmark repeats runs."""
        self._said: set[str] = set()

    def begin_epoch(self) -> None:
        """Write down what the epoch's steps read; record them first if they are not.

        Raises:
            CannotRecordError: the gang must take its steps in another way.
            KdctlError: records are required, and something cannot be recorded.
        """
        self.settle()  # no lane may still read what is written now
        members = self._gang.active
        first = members[0]
        order = self._gang.data.train.order(first.seed, first.epoch)
        if any(self._is_new(member) for member in members):
            self._record(members, order)
            self.settle()
        current = self._lanes.current()
        self._supply.begin_epoch(order, first.step, current)
        for member in members:
            self._tracks[id(member)].pupil.begin_epoch()
        for member in members:
            self._tracks[id(member)].lane.wait_for(current)

    def take(self) -> None:
        """Replay the next step of every active member."""
        members = self._gang.active
        size = self._gang.data.train.size(members[0].step)
        self._supply.advance(members[0].step)
        for member in members:
            track = self._tracks[id(member)]
            member.reseed()
            track.lane.wait_for(self._supply.lane)
            track.lane.run(track.steps[size])
            member.advance(size)
        for member in members:  # the next batch goes where they read this one
            self._supply.lane.wait_for(self._tracks[id(member)].lane)

    def predict(self, member: Member, model: nn.Module, images: EvaluationSet) -> Tensor:
        """Replay the evaluation of what a member would ship; return where its logits [N, K] will lie."""
        track = self._tracks[id(member)]
        track.lane.wait_for(self._lanes.current())
        found = next((exam for exam in track.exams if exam[0].suits(model, images)), None)
        if found is None:
            found = self._record_exam(track, Exam(model, images, self._gang.compute))
        exam, sit = found
        track.lane.run(functools.partial(exam.follow, model))
        track.lane.run(sit)
        return exam.logits

    def settle(self) -> None:
        """Let code that knows no lanes wait for all lanes."""
        current = self._lanes.current()
        for lane in (*self._supply.lanes, *(track.lane for track in self._tracks.values())):
            current.wait_for(lane)

    def executed_as(self, member: Member) -> str:
        """Say whether a member's steps are replayed, and if not, why."""
        reason = self._tracks[id(member)].reason
        if reason:
            return f"eager: {reason}"
        return RECORDED if self._gang.table is None else f"{RECORDED}, teacher outputs kept"

    def _is_new(self, member: Member) -> bool:
        track = self._tracks.get(id(member))
        return track is None or track.optimizer is not member.optimizer

    def _record(self, members: list[Member], order: EpochOrder) -> None:
        """Record whole and last batch: what all share, then every member, on a real batch."""
        gang, lanes = self._gang, {key: track.lane for key, track in self._tracks.items()}
        with self._refusing():
            self._supply.open(order)
        self._tracks = {
            id(member): _Track(
                member=member,
                lane=lanes.get(id(member)) or self._lanes.open(),
                pupil=Pupil(member, self._supply.feed, gang),
                optimizer=member.optimizer,
            )
            for member in members
        }
        for track in self._tracks.values():
            track.pupil.begin_epoch()
        last = gang.data.train.num_steps - 1
        for step in sorted({gang.data.train.size(step): step for step in (last, 0)}.values()):
            with self._refusing():
                self._supply.record_batch(step)
            for track in self._tracks.values():
                self._record_step(track, step)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        """Say why batches or teachers cannot be recorded."""
        try:
            yield
        except CannotRecordError as error:
            self._refuse(None, str(error), error)
            raise

    def _record_step(self, track: _Track, step: int) -> None:
        member, size = track.member, self._gang.data.train.size(step)
        work = functools.partial(track.pupil.learn, size)

        def rehearse() -> None:
            try:
                for _ in range(REHEARSALS):
                    member.reseed()
                    work()
            finally:
                track.pupil.forget()

        track.steps[size] = work
        if not member.distiller.graph_safe:
            track.reason = _UNSAFE
            self._refuse(track, _UNSAFE)
        if track.reason:
            return
        track.lane.wait_for(self._supply.lane)
        try:
            track.steps[size] = track.lane.record(
                work, rehearse=rehearse, randomness=member.distiller.setup.rng
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            track.reason = f"a step cannot be recorded ({first_line(error)})"
            self._refuse(track, track.reason, error)

    def _record_exam(self, track: _Track, exam: Exam) -> tuple[Exam, Work]:
        sit: Work = exam.sit
        try:
            sit = track.lane.record(exam.sit, rehearse=exam.sit)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refuse(track, f"its evaluation cannot be recorded ({first_line(error)})", error)
        track.exams.append((exam, sit))
        return exam, sit

    def _refuse(self, track: _Track | None, reason: str, error: Exception | None = None) -> None:
        """Say once that, and why, something is not recorded."""
        what = f"run {track.member.key}: {reason}" if track else reason
        if self._required:
            raise KdctlError(f"{what}.", "use --graphs auto, which goes on without.") from error
        if what not in self._said:
            _log.warning("%s: it is executed eagerly", what)
        self._said.add(what)
