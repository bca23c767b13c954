"""Whether torch's threads help on this CPU, or wait for each other because others use the cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from kdctl.assembly.workspace import Workspace
from kdctl.engine.device import choose_device
from kdctl.protocols.backbone import models

MODEL, SIZE, BATCH = "resnet8", 16, 32
"""Small, so that it takes a moment; with much smaller ones one thread is quicker everywhere."""

ROUNDS, STEPS = 3, 3

ENOUGH_SECONDS = 2.0
"""Of measured steps: where they take that long, threads wait for each other, and a round is enough."""


def slowdown_of_threads(workspace: Workspace, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Return how many times slower a training step is with torch's threads than with one.

    The threads of an operation wait for the last of them. Where another program has one of the cores, that
    is for as long as the system lets it run, many times for each step. One thread is then quicker. That is
    not for us to choose: another number of threads rounds differently.

    Returns:
        The ratio of the medians of some steps, in turns; None on a GPU, where the number of threads was
        given, or where there is only one.
    """
    num_threads = torch.get_num_threads()
    if workspace.num_threads is not None or num_threads == 1 or choose_device(workspace.device).type != "cpu":
        return None
    step = _training_step()
    seconds: dict[int, list[float]] = {1: [], num_threads: []}
    try:
        for _ in range(ROUNDS):
            for threads, taken in seconds.items():
                torch.set_num_threads(threads)
                step()
                for _ in range(STEPS):
                    start = clock()
                    step()
                    taken.append(clock() - start)
            if sum(map(sum, seconds.values())) > ENOUGH_SECONDS:
                break
    finally:
        torch.set_num_threads(num_threads)
    return median(seconds[num_threads]) / median(seconds[1])


def _training_step() -> Callable[[], None]:
    with torch.random.fork_rng(devices=[]):
        model = models.get(MODEL).item(10, SIZE)
        images = torch.randn(BATCH, 3, SIZE, SIZE)

    def step() -> None:
        model.zero_grad()
        model(images).sum().backward()

    return step
