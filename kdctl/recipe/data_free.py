"""Options of methods that make their own training images: their runs read no image of the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le


@dataclass(frozen=True, kw_only=True)
class EpochWork:
    """What an epoch of training computes, for an estimate of its time; the evaluation comes on top."""

    student: float
    """Images that pass forward through the student; a backward pass counts as two of them, one without
    gradients of weights as one."""
    teacher: float
    """The same of each teacher."""
    multiply_adds: float = 0.0
    """Of all that is neither student nor teacher, such as a generator."""


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """How many images a method makes; its `Config` adds its own options to these."""

    batch_size: Annotated[int, Gt(1), Le(1_000_000)] = 256
    """Images per update."""
    steps_per_epoch: Annotated[int, Gt(0), Le(1_000_000)] = 100
    """Training steps that count as an epoch."""

    @property
    def images_per_epoch(self) -> int:
        """How many images the student sees in an epoch of one update in each step."""
        return self.batch_size * self.steps_per_epoch

    def epoch_work(self, image_size: int) -> EpochWork:
        """Return what an epoch computes with images of so many pixels on each side.

        A method whose steps have several updates, or that prepares epochs, adds what they cost.
        """
        return EpochWork(student=3 * self.images_per_epoch, teacher=self.images_per_epoch)
