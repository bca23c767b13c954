"""Threads that wait for each other are noticed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.workflows import cores
from kdctl.workflows.cores import STEPS, slowdown_of_threads


def clock_with(seconds_of: Callable[[], float]) -> Callable[[], float]:
    """Return a clock on which each step takes as long as it should with the threads that torch now has."""
    now = itertools.count()
    state = {"time": 0.0}

    def tick() -> float:
        if next(now) % 2:
            state["time"] += seconds_of()
        return state["time"]

    return tick


@pytest.fixture
def free(tmp_path: Path, torch_settings: None) -> Iterator[Workspace]:
    """A workspace whose number of threads torch chooses: two."""
    torch.set_num_threads(2)
    with workflows.open_workspace(tmp_path / "runs", tmp_path / "data", device="cpu") as opened:
        yield opened


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let steps take what the clock says."""
    monkeypatch.setattr(cores, "_training_step", lambda: lambda: None)


@pytest.mark.usefixtures("no_work")
def test_the_slowdown_is_that_of_the_medians(free: Workspace) -> None:
    ratio = slowdown_of_threads(free, clock_with(lambda: 3.0 if torch.get_num_threads() == 2 else 1.5))
    assert ratio == pytest.approx(2.0)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("no_work")
def test_a_few_steps_are_enough_where_they_take_seconds(free: Workspace) -> None:
    asked = itertools.count()

    def slow() -> float:
        next(asked)
        return 20.0 if torch.get_num_threads() == 2 else 0.5

    assert slowdown_of_threads(free, clock_with(slow)) == pytest.approx(40.0)
    assert next(asked) == 2 * STEPS


@pytest.mark.extended
def test_the_random_numbers_of_the_runs_are_left_alone(free: Workspace) -> None:
    before = torch.get_rng_state()
    slowdown_of_threads(free)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_measured_where_the_number_was_given(workspace: Workspace) -> None:
    assert slowdown_of_threads(workspace) is None
