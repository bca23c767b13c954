"""A student that matches the last map of each of two teachers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from kdctl.losses.supervision import label_loss
from kdctl.protocols.distiller import Distiller, Losses, Setup, Step, methods
from kdctl.protocols.maps import pool_to, shared_size
from kdctl.registry import NoOptions


@methods.register("proof_two_teachers", label="Proof: two teachers")
class TwoTeachers(Distiller):
    """A convolution for each teacher brings the student's map to the teacher's width."""

    num_teachers: ClassVar[tuple[int, int | None]] = (2, 2)

    def __init__(self, config: NoOptions, setup: Setup) -> None:
        super().__init__(config, setup)
        own = setup.student.map_shape(setup.student.final_tap)
        shapes = [teacher.map_shape(teacher.final_tap) for teacher in setup.teachers]
        self.sizes = [shared_size(own, shape) for shape in shapes]
        self.heads = nn.ModuleList(nn.Conv2d(own.channels, shape.channels, 1) for shape in shapes)
        self.student_taps = (setup.student.final_tap,)
        self.teacher_taps = tuple((teacher.final_tap,) for teacher in setup.teachers)
        self.reads_teacher_logits = False

    def losses(self, step: Step) -> Losses:
        (own,) = step.student.taps.values()
        transfer: dict[str, torch.Tensor] = {}
        for place, (head, size, teacher) in enumerate(
            zip(self.heads, self.sizes, step.teachers, strict=True)
        ):
            (target,) = teacher.taps.values()
            distance = functional.mse_loss(head(pool_to(own, size)).float(), pool_to(target, size).float())
            transfer[f"teacher_{place}"] = distance
        logits = step.student.require_logits()
        return Losses(task=label_loss(logits, step.batch), transfer=transfer, logits=logits)
