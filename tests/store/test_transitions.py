from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from kdctl.errors import KdctlError
from kdctl.records import PlannedRun, RunResult, RunState
from kdctl.store.leases import Owner
from kdctl.store.store import Store


@pytest.fixture
def key(store: Store, plan_run: Callable[..., PlannedRun]) -> str:
    run = plan_run(1)
    store.add_runs([run])
    return run.key


def test_a_run_is_held_by_one_process(store: Store, key: str, me: Owner, stranger: Owner) -> None:
    assert store.claim(key, stranger, lease_seconds=60)
    assert not store.claim(key, me, lease_seconds=60)
    assert not store.claim(key, stranger, lease_seconds=60)

    run = store.run(key)
    assert (run.state, run.attempts) == (RunState.RUNNING, 1)


def test_an_unknown_run_cannot_be_claimed(store: Store, me: Owner) -> None:
    assert not store.claim("unknown", me, lease_seconds=60)


def test_an_expired_lease_can_be_taken_over(store: Store, key: str, me: Owner, stranger: Owner) -> None:
    assert store.claim(key, stranger, lease_seconds=0)
    assert store.claim(key, me, lease_seconds=60)
    assert store.run(key).attempts == 2
    assert not store.renew(key, stranger, lease_seconds=60)


def test_a_renewed_lease_holds(store: Store, key: str, me: Owner, stranger: Owner) -> None:
    store.claim(key, stranger, lease_seconds=0)

    assert store.renew(key, stranger, lease_seconds=60)
    assert not store.claim(key, me, lease_seconds=60)


@pytest.mark.extended
def test_a_killed_process_lets_go_at_once(
    store: Store, key: str, me: Owner, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("hold.py", store.path, key)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    assert not store.claim(key, me, lease_seconds=60)

    process.kill()
    process.wait()

    assert store.claim(key, me, lease_seconds=60)


@pytest.mark.parametrize("state", [RunState.PLANNED, RunState.INTERRUPTED])
def test_a_released_run_can_be_had_again(
    store: Store, key: str, me: Owner, stranger: Owner, state: RunState
) -> None:
    store.claim(key, me, lease_seconds=60)

    assert not store.release(key, stranger, state=state, reason="not mine")
    assert store.release(key, me, state=state, reason="SIGTERM")
    assert (store.run(key).state, store.run(key).reason) == (state, "SIGTERM")
    assert not store.release(key, me, state=state, reason="again")
    assert store.claim(key, stranger, lease_seconds=60)
    assert store.run(key).reason == ""


def test_a_failed_run_is_tried_again_only_when_told(store: Store, key: str, me: Owner) -> None:
    store.claim(key, me, lease_seconds=60)
    store.release(key, me, state=RunState.FAILED, reason="out of memory")

    assert not store.claim(key, me, lease_seconds=60)
    assert store.claim(key, me, lease_seconds=60, retry_failed=True)


def test_a_retried_run_has_no_result(
    store: Store, key: str, me: Owner, make_result: Callable[..., RunResult]
) -> None:
    store.claim(key, me, lease_seconds=60)
    store.settle(key, me, result=make_result(RunState.FAILED, "out of memory"))
    assert store.run(key).result is not None

    store.claim(key, me, lease_seconds=60, retry_failed=True)

    assert store.run(key).result is None


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.DIVERGED, RunState.PRUNED])
def test_a_settled_run_is_final(
    store: Store, key: str, me: Owner, make_result: Callable[..., RunResult], state: RunState
) -> None:
    store.claim(key, me, lease_seconds=60)
    store.settle(key, me, result=make_result(state))

    assert not store.claim(key, me, lease_seconds=60, retry_failed=True)
    assert not store.renew(key, me, lease_seconds=60)
    assert not store.release(key, me, state=RunState.PLANNED, reason="")
    assert store.prune([key], reason="") == 0
    assert store.run(key).state is state


def test_a_result_of_a_process_that_lost_its_lease_is_refused(
    store: Store, key: str, me: Owner, stranger: Owner, make_result: Callable[..., RunResult]
) -> None:
    store.claim(key, stranger, lease_seconds=0)
    store.claim(key, me, lease_seconds=60)

    with pytest.raises(
        KdctlError, match=f"was refused: process {me.pid} on {me.host} holds it, not process 7"
    ):
        store.settle(key, stranger, result=make_result())

    assert store.run(key).state is RunState.RUNNING
    assert store.run(key).result is None


def test_a_result_of_a_run_that_nobody_holds_is_refused(
    store: Store, key: str, me: Owner, make_result: Callable[..., RunResult]
) -> None:
    with pytest.raises(KdctlError, match="was refused: nobody holds it"):
        store.settle(key, me, result=make_result())


def test_states_that_are_no_end_are_a_callers_mistake(
    store: Store, key: str, me: Owner, make_result: Callable[..., RunResult]
) -> None:
    store.claim(key, me, lease_seconds=60)

    with pytest.raises(ValueError, match="does not end as running"):
        store.settle(key, me, result=make_result(RunState.RUNNING))
    with pytest.raises(ValueError, match="not released as finished"):
        store.release(key, me, state=RunState.FINISHED, reason="")


def test_runs_that_nobody_holds_can_be_pruned(
    store: Store, plan_run: Callable[..., PlannedRun], me: Owner
) -> None:
    runs = [plan_run(number) for number in range(3)]
    store.add_runs(runs)
    store.claim(runs[0].key, me, lease_seconds=60)

    assert store.prune([run.key for run in runs], reason="5 points behind") == 2
    assert [run.state for run in store.runs()] == [RunState.RUNNING, RunState.PRUNED, RunState.PRUNED]
    assert store.prune([runs[1].key], reason="5 points behind") == 0
    assert store.prune([runs[1].key], reason="9 points behind") == 1
    assert store.run(runs[1].key).reason == "9 points behind"
    assert store.runs()[2].reason == "5 points behind"
