"""Taking the steps of a gang, one after the other, as plain code."""

from __future__ import annotations

import functools
from typing import Protocol

from torch import Tensor, nn

from kdctl.engine.batches import EpochOrder
from kdctl.engine.evaluate import predict
from kdctl.engine.frozen import widened
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.streamed_batches import EvaluationImages
from kdctl.engine.table_filler import TableReader
from kdctl.engine.teacher_lookahead import ChunkReader


class Steps(Protocol):
    """How a gang takes its steps. Every way gives the same bits."""

    def begin_epoch(self) -> None:
        """Make ready for the running epoch of the active members, from the step they stand at."""
        ...

    def take(self) -> None:
        """Queue the next step of every active member; the device may still work on it afterwards."""
        ...

    def predict(self, member: Member, name: str, model: nn.Module, images: EvaluationImages) -> Tensor:
        """Queue the evaluation of a member's model; return where its logits [N, K] will lie.

        Args:
            member: whose model it is.
            name: of the model within the run; empty for the one that would be shipped.
            model: the model as it is now.
            images: the split.
        """
        ...

    def join(self) -> None:
        """Let whatever comes next on the device wait until all that was queued here is done."""
        ...

    def executed_as(self, member: Member) -> str:
        """Say how the steps of a member are executed, for its record."""
        ...


class EagerSteps:
    """Runs every operation as it comes: the only way on a CPU."""

    def __init__(self, gang: Gang, reason: str = "") -> None:
        """`reason` says why there is no faster way, where one was looked for."""
        self._gang = gang
        self._reason = reason
        self._order: EpochOrder | None = None
        self._reader: TableReader | ChunkReader | None = None

    def begin_epoch(self) -> None:
        """Draw the order of the epoch."""
        first = self._gang.active[0]
        self._order = self._gang.data.train.order(first.seed, first.epoch)
        self._reader = self._gang.read_ahead(self._order, first.step)

    def take(self) -> None:
        """Take a step: one batch, one forward pass of each teacher, an update of every member."""
        gang, train = self._gang, self._gang.data.train
        if self._order is None:
            raise ValueError("begin_epoch comes before the first step")
        members = gang.active
        size = train.size(members[0].step)
        batch = train.batch(self._order, members[0].step)
        known = self._reader.outputs(members[0].step) if self._reader else None
        teachers = gang.teacher_outputs(batch.images) if known is None else widened(known)
        for member in members:
            run_teachers = functools.partial(gang.outputs_for, member)
            member.update(batch, teachers, train.num_steps, gang.compute, run_teachers)
            member.advance(size)

    def predict(self, member: Member, name: str, model: nn.Module, images: EvaluationImages) -> Tensor:
        """Return the logits [N, K]."""
        return predict(model, images, self._gang.compute)

    def join(self) -> None:
        """Nothing is queued apart."""

    def executed_as(self, member: Member) -> str:
        """Return 'eager', with the reason if there is one, and whether teacher outputs are kept."""
        how = "eager" if self._gang.table is None else "eager, teacher outputs kept"
        return f"{how}: {self._reason}" if self._reason else how
