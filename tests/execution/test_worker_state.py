from __future__ import annotations

from kdctl.execution.worker_state import CrashCounter


def test_a_run_fails_when_its_worker_died_three_times_at_the_same_place() -> None:
    crashes = CrashCounter(max_crashes=3)
    assert crashes.count("a", "SIGSEGV", reached=4) is None
    assert not crashes.is_suspect("a")
    assert crashes.count("a", "SIGSEGV", reached=4) is None
    assert crashes.is_suspect("a")
    failure = crashes.count("a", "SIGSEGV", reached=2)
    assert failure is not None
    assert "died 3 times in epoch 3, the last time: SIGSEGV" in failure.problem


def test_a_run_that_gets_further_each_time_is_innocent() -> None:
    crashes = CrashCounter(max_crashes=3)
    assert all(crashes.count("a", "SIGKILL", reached=epoch) is None for epoch in range(1, 10))
    assert not crashes.is_suspect("a")


def test_runs_are_counted_each_for_itself() -> None:
    crashes = CrashCounter(max_crashes=3)
    crashes.count("a", "SIGKILL", reached=0)
    crashes.count("a", "SIGKILL", reached=0)
    assert crashes.count("b", "SIGKILL", reached=0) is None
