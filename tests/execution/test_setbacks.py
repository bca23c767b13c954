from __future__ import annotations

from kdctl.execution.setbacks import Setbacks


def test_a_run_fails_when_its_worker_died_three_times_at_the_same_place() -> None:
    setbacks = Setbacks(most_deaths=3)
    assert setbacks.count("a", "SIGSEGV", reached=4) is None
    assert not setbacks.is_suspect("a")
    assert setbacks.count("a", "SIGSEGV", reached=4) is None
    assert setbacks.is_suspect("a")
    failure = setbacks.count("a", "SIGSEGV", reached=2)
    assert failure is not None
    assert "died 3 times in epoch 3, the last time: SIGSEGV" in failure.problem


def test_a_run_that_gets_further_each_time_is_innocent() -> None:
    setbacks = Setbacks(most_deaths=3)
    assert all(setbacks.count("a", "SIGKILL", reached=epoch) is None for epoch in range(1, 10))
    assert not setbacks.is_suspect("a")


def test_runs_are_counted_each_for_itself() -> None:
    setbacks = Setbacks(most_deaths=3)
    setbacks.count("a", "SIGKILL", reached=0)
    setbacks.count("a", "SIGKILL", reached=0)
    assert setbacks.count("b", "SIGKILL", reached=0) is None
