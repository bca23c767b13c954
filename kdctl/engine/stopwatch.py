"""How long the steps of a gang take, measured on the training loop itself."""

from __future__ import annotations

import time

import torch

from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.steps import Steps
from kdctl.engine.trainer import begin_epoch, choose_steps, fit
from kdctl.records import EpochResult


class Stopwatch:
    """Takes a gang through its steps and reads the time; it is the loop's observer and its stop signal.

    What is measured is `fit`: batches, teachers, losses, optimizer and the loop's own work. The start
    and the end of `fit`, where states are loaded and saved, are not.
    """

    def __init__(self, gang: Gang) -> None:
        """Measure `gang`, whose members' folders must exist: each stop saves their states there."""
        self._gang = gang
        self._steps: Steps = choose_steps(gang)
        self._left = 0
        self._began = self._ended = 0.0

    @property
    def num_images(self) -> int:
        """Images of a step, over all members."""
        return len(self._gang.active) * self._gang.data.train.batch_size

    def ready(self) -> Steps:
        """Stand before the first step of an epoch; return what takes the steps, without the loop's own work.

        Records that exist are used. A GPU may still be at work on a step when its `take` returns.
        """
        for member in self._gang.active:
            member.epoch, member.step = 0, 0
        self._steps = begin_epoch(self._gang, self._steps)
        return self._steps

    def take(self, num_steps: int) -> float:
        """Take whole steps and return the wall time in seconds, waiting for the device at both ends.

        Raises:
            ValueError: an epoch has no more steps than that.
        """
        if num_steps >= self._gang.data.train.num_steps:
            raise ValueError(f"{num_steps} steps do not fit into an epoch")
        for member in self._gang.active:  # always the same part of the epoch, without evaluation
            member.epoch, member.step = 0, 0
        self._left, self._began = num_steps, 0.0
        fit(self._gang, self, stop=self._stop, steps=self._steps)
        return self._ended - self._began

    def step_done(self, gang: Gang) -> None:
        """Count the step."""
        self._left -= 1

    def epoch_done(self, member: Member, result: EpochResult) -> None:
        """Never called: `take` stops before an epoch ends."""

    def _stop(self) -> bool:
        if self._left and self._began:
            return False
        if self._gang.compute.device.type == "cuda":
            torch.cuda.synchronize(self._gang.compute.device)
        if self._left:
            self._began = time.perf_counter()
            return False
        self._ended = time.perf_counter()
        return True
