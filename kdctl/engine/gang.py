"""Runs in lockstep: what they share, and what they read of frozen teachers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdctl.engine.batches import EpochOrder, EvaluationSet, TrainingSet
from kdctl.engine.device import Compute, Graphs
from kdctl.engine.frozen import widened
from kdctl.engine.lookahead import ChunkReader, Chunks
from kdctl.engine.member import Member
from kdctl.engine.recall import Recall, TableReader
from kdctl.engine.teacher_outputs import Wish
from kdctl.engine.teacher_table import TeacherTable
from kdctl.protocols.backbone import Backbone, Outputs

SAVE_STATE_SECONDS = 60.0
"""At most so much work is lost when a process is killed (a signal loses none)."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The splits on the device."""

    train: TrainingSet
    val: EvaluationSet | None
    test: EvaluationSet


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
    graphs: Graphs = "auto"
    """Whether steps are recorded as CUDA graphs: 'on' stops with an error where they cannot be."""

    @property
    def active(self) -> list[Member]:
        """Members that still train."""
        return [member for member in self.members if not (member.diverged or member.left)]

    @property
    def num_epochs(self) -> int:
        """Length of the runs."""
        return self.members[0].schedule.epochs

    def wishes(self) -> tuple[Wish, ...]:
        """Return what the active members read of each teacher."""
        distillers = [member.distiller for member in self.active]
        return tuple(
            Wish(
                taps=tuple(
                    sorted({tap for distiller in distillers for tap in distiller.teacher_taps[place]})
                ),
                logits=any(distiller.reads_teacher_logits for distiller in distillers),
            )
            for place in range(len(self.teachers))
        )

    @torch.no_grad()
    def ask_teachers(self, images: Tensor, wishes: Sequence[Wish]) -> tuple[Outputs, ...]:
        """Run each teacher once, as far as the wishes go; maps come in the teacher's precision."""
        return tuple(
            teacher.observe(images, wish.taps, with_logits=wish.logits)
            for teacher, wish in zip(self.teachers, wishes, strict=True)
        )

    def watch_teachers(self, images: Tensor) -> tuple[Outputs, ...]:
        """Return what each teacher says to images, as far as any member reads it, in fp32."""
        return widened(self.ask_teachers(images, self.wishes()))

    def read_ahead(self, order: EpochOrder, first_step: int) -> TableReader | ChunkReader | None:
        """Return what serves an epoch's steps with teacher outputs; None if teachers run at each step."""
        wishes = self.wishes()
        ask = functools.partial(self.ask_teachers, wishes=wishes)
        chunks = self.chunks
        if self.table is not None:
            return TableReader(Recall(self.table, chunks, order, wishes=wishes, ask=ask), first_step)
        if chunks.num_batches == 1:
            return None
        return ChunkReader(chunks, order, wishes=wishes, ask=ask)

    @property
    def chunks(self) -> Chunks:
        """Return how many batches teachers see at once."""
        return Chunks(train=self.data.train, num_batches=self.compute.options.teacher_lookahead)
