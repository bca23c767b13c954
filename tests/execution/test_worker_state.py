from __future__ import annotations

from typing import Any, cast

from kdctl.assembly.progress import Silent
from kdctl.execution.messages import Event, EventKind
from kdctl.execution.worker_state import CrashCounter, WorkerState
from kdctl.store.leases import Owner


def worker_that_is_ready() -> WorkerState:
    worker = WorkerState(cast("Any", None))
    worker.owner = Owner(host="here", pid=1, token="::")
    worker.last_heard = worker.last_news = 0.0
    return worker


def silence(worker: WorkerState, now: float) -> float | None:
    return worker.silence(now, patience=6, start_patience=300)


def test_a_process_that_is_stopped_is_given_up_after_a_lease_whether_it_has_stepped_or_not() -> None:
    worker = worker_that_is_ready()
    assert silence(worker, 5) is None
    assert silence(worker, 7) == 6
    worker.has_stepped = True
    assert silence(worker, 7) == 6


def test_a_process_that_runs_has_time_to_its_first_step_and_none_after_it() -> None:
    worker = worker_that_is_ready()
    before = worker.last_news
    worker.handle_event(Event(kind=EventKind.ALIVE))
    assert worker.last_news == before < worker.last_heard
    worker.last_heard, worker.last_news = 290.0, 0.0
    assert silence(worker, 295) is None
    worker.last_heard = 300.0
    assert silence(worker, 301) == 300
    worker.has_stepped, worker.last_heard = True, 6.5
    assert silence(worker, 7) == 6


def test_a_process_that_is_not_ready_cannot_say_that_it_runs() -> None:
    worker = worker_that_is_ready()
    worker.owner = None
    assert silence(worker, 299) is None
    assert silence(worker, 301) == 300


def test_a_time_in_which_nobody_listened_is_no_silence() -> None:
    worker = worker_that_is_ready()
    worker.forgive(100)
    assert silence(worker, 105) is None
    assert silence(worker, 107) == 6


class Opened:
    """A recorder that notes for which runs it reads where they are computed."""

    def __init__(self) -> None:
        self.progress = Silent()
        self.keys: list[str] = []

    def opened(self, plan: str) -> None:
        self.keys.append(plan)


def test_where_a_run_is_computed_is_read_once_after_each_of_its_starts() -> None:
    recorder = Opened()
    worker = WorkerState(cast("Any", recorder))
    worker.plans = cast("Any", {"a": "a", "b": "b"})
    for keys in (("a", "b"), ("a",)):  # the second time without a member of the gang
        worker.handle_event(Event(kind=EventKind.STARTED, keys=keys))
        for position in (0.5, 1.0):
            worker.handle_event(Event(kind=EventKind.STEPPED, positions=dict.fromkeys(keys, position)))
    assert sorted(recorder.keys) == ["a", "a", "b"]


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
