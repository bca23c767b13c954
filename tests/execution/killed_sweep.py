"""A sweep that SIGKILL ends in the middle of an epoch: killed_sweep.py RECIPE RUNS EPOCHS POSITION.

The gang of runs that are EPOCHS long is killed at POSITION epochs, once a state of it lies on the disk that
is no more than an epoch older. States are saved after every step.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kdctl import workflows
from kdctl.assembly import build_gangs
from kdctl.assembly.progress import Silent
from kdctl.engine.gang import Gang
from kdctl.engine.resume import RESUME_FILE
from kdctl.recipe.plan import RunPlan


class KilledAt(Silent):
    """Kills this process when the runs that are `epochs` long stand at `position`."""

    def __init__(self, runs: Path, epochs: int, position: float) -> None:
        self._runs, self._epochs, self._position = runs, epochs, position
        self._keys: list[str] = []
        self._latest_epoch_began = 0.0

    def started(self, plans: Sequence[RunPlan]) -> None:
        """Note which runs are to be killed."""
        self._keys = [plan.key for plan in plans if plan.schedule.options.epochs == self._epochs]

    def stepped(self, key: str, position: float) -> None:
        """Kill, once all members of the gang have taken the step and have a young state."""
        if not self._keys or key != self._keys[-1]:
            return
        if not self._latest_epoch_began and position > self._position - 1:
            self._latest_epoch_began = time.time()
        if position < self._position:
            return
        states = [self._runs / key / RESUME_FILE for key in self._keys]
        while not all(
            state.is_file() and state.stat().st_mtime > self._latest_epoch_began for state in states
        ):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


def main(recipe: str, runs: str, epochs: str, position: str) -> None:
    """Sweep until the kill."""
    build_gangs.Gang = functools.partial(Gang, save_state_seconds=0.0)  # type: ignore[misc,assignment]
    progress = KilledAt(Path(runs), int(epochs), float(position))
    with workflows.open_workspace(runs, Path(runs).parent / "data", num_threads=1) as workspace:
        workflows.sweep(recipe, workspace, progress=progress, gang_size=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
