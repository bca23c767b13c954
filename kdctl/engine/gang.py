"""Runs in lockstep: the data and frozen teachers that they share, and which teacher outputs they read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdctl.engine.batches import EpochOrder
from kdctl.engine.device import Compute, Graphs
from kdctl.engine.frozen import widened
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.member import Member
from kdctl.engine.ranks import Ranks
from kdctl.engine.streamed_batches import EvaluationImages, TrainingBatches
from kdctl.engine.table_filler import TableFiller, TableReader
from kdctl.engine.teacher_lookahead import ChunkReader, Chunks
from kdctl.engine.teacher_outputs import TeacherReads
from kdctl.engine.teacher_table import TeacherTable
from kdctl.protocols.backbone import Backbone, Outputs

SAVE_STATE_SECONDS = 60.0
"""At most so much work is lost when a process is killed (a signal loses none)."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The splits on the device."""

    train: TrainingBatches
    val: EvaluationImages | None
    test: EvaluationImages
    workers: ImageWorkers | None = None
    """Who decodes the images of splits that do not lie on the device."""

    def close(self) -> None:
        """End the processes that decode images."""
        if self.workers is not None:
            self.workers.close()


@dataclass(kw_only=True)
class Gang:
    """Runs that share batches and frozen teachers: same data, seed and length."""

    members: list[Member]
    teachers: Sequence[Backbone]
    """As the engine runs them (`engine/frozen.py`)."""
    data: TrainingData
    compute: Compute
    table: TeacherTable | None = None
    """Where teacher outputs are kept that come again."""
    save_state_seconds: float = SAVE_STATE_SECONDS
    """Between two savings of the members' states."""
    ranks: Ranks | None = None
    """The processes that train these runs together; None: this one alone."""
    graphs: Graphs = "auto"
    """Whether steps are recorded as CUDA graphs: 'on' stops with an error where they cannot be."""

    @property
    def active(self) -> list[Member]:
        """Members that still train."""
        return [member for member in self.members if not (member.diverged or member.left)]

    @property
    def writes(self) -> bool:
        """Whether this process writes checkpoints and states."""
        return self.ranks is None or self.ranks.leads

    @property
    def num_epochs(self) -> int:
        """Length of the runs."""
        return self.members[0].schedule.epochs

    def reads(self) -> tuple[TeacherReads, ...]:
        """Return what the active members read of each teacher."""
        distillers = [member.distiller for member in self.active if not member.generates]
        return tuple(
            TeacherReads(
                taps=tuple(
                    sorted({tap for distiller in distillers for tap in distiller.teacher_taps[place]})
                ),
                logits=any(distiller.reads_teacher_logits for distiller in distillers),
            )
            for place in range(len(self.teachers))
        )

    @torch.no_grad()
    def run_teachers(self, images: Tensor, reads: Sequence[TeacherReads]) -> tuple[Outputs, ...]:
        """Run each teacher once, up to the last output in `reads`; maps come in the teacher's precision."""
        return tuple(
            teacher.observe(images, wanted.taps, with_logits=wanted.logits)
            for teacher, wanted in zip(self.teachers, reads, strict=True)
        )

    def outputs_for(self, member: Member, images: Tensor) -> tuple[Outputs, ...]:
        """Return the teacher outputs that one member reads, on images that it made, in fp32."""
        distiller = member.distiller
        reads = tuple(
            TeacherReads(taps=taps, logits=distiller.reads_teacher_logits) for taps in distiller.teacher_taps
        )
        return widened(self.run_teachers(images, reads))

    def teacher_outputs(self, images: Tensor) -> tuple[Outputs, ...]:
        """Return the teacher outputs on images that any member reads, in fp32."""
        return widened(self.run_teachers(images, self.reads()))

    def read_ahead(self, order: EpochOrder, first_step: int) -> TableReader | ChunkReader | None:
        """Return a reader of teacher outputs for an epoch's steps; None if the teachers run at each step."""
        reads = self.reads()
        run_teachers = functools.partial(self.run_teachers, reads=reads)
        chunks = self.chunks
        if self.table is not None:
            return TableReader(
                TableFiller(self.table, chunks, order, reads=reads, run_teachers=run_teachers), first_step
            )
        if chunks.num_batches == 1:
            return None
        return ChunkReader(chunks, order, reads=reads, run_teachers=run_teachers)

    @property
    def chunks(self) -> Chunks:
        """Return the groups of batches that the teachers run on at once."""
        return Chunks(train=self.data.train, num_batches=self.compute.options.teacher_lookahead)
