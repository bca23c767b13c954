"""Who may train a run: processes on this host, on others, with clocks that are set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.progress import Silent
from kdctl.assembly.workspace import Workspace
from kdctl.errors import Mistake
from kdctl.execution.claims import Claims
from kdctl.execution.recorders import IndexRecorder
from kdctl.records import RunState
from kdctl.store.leases import LeaseConfig, Owner

RecipeWriter = Callable[..., Path]

LEASE = LeaseConfig(seconds=600, heartbeat_seconds=20)
ELSEWHERE = Owner(host="elsewhere", pid=7, token="::one")


class Hand:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def claims(workspace: Workspace, clock: Hand) -> Claims:
    return Claims(workspace=workspace, lease=LEASE, now=clock)


@pytest.fixture
def key(workspace: Workspace, recipe: RecipeWriter) -> str:
    (plan,) = workflows.plan_training(recipe("method = 'ce'", teacher=""), workspace).runs
    workspace.store.add_runs([plan.planned()])
    return plan.key


def hold(workspace: Workspace, key: str, seconds: float, owner: Owner = ELSEWHERE) -> None:
    """Let another host claim a run; by its own clock the lease lasts for so long from now."""
    workspace.store.claim(key, owner, lease_seconds=seconds)
    workspace.folder(key).hold(owner, lease_seconds=seconds)


def test_a_claim_says_in_the_folder_who_works_there(claims: Claims, workspace: Workspace, key: str) -> None:
    me = Owner.here()
    assert claims.take(key, me)
    lease = workspace.folder(key).lease()
    assert lease is not None
    assert lease.owner == me
    assert not Claims(workspace=workspace, lease=LEASE).take(key, ELSEWHERE)


def test_a_process_that_claims_first_keeps_the_run_however_late_the_other_notices(
    workspace: Workspace, key: str
) -> None:
    class TooLate(Claims):
        """Another process claims the run just after this one has found it free."""

        def is_free(self, key: str, *, owner: Owner | None = None) -> bool:
            free = super().is_free(key, owner=owner)
            workspace.store.claim(key, ELSEWHERE, lease_seconds=600)
            return free

    assert not TooLate(workspace=workspace, lease=LEASE).take(key, Owner.here())
    lease = workspace.store.lease(key)
    assert lease is not None
    assert lease.owner == ELSEWHERE
    assert workspace.store.run(key).attempts == 1


def test_an_old_failure_does_not_end_a_run_that_another_process_has_just_claimed(
    workspace: Workspace, recipe: RecipeWriter, key: str
) -> None:
    (plan,) = workflows.plan_training(recipe("method = 'ce'", teacher=""), workspace).runs
    gone = dataclasses.replace(Owner.here(), token="::gone")
    workspace.folder(key).write_plan(plan.planned())
    workspace.folder(key).write_failure(Mistake(problem="no memory was left", hint="take fewer"))
    workspace.store.claim(key, gone, lease_seconds=600)

    def claimed_meanwhile(owner: Owner) -> bool:
        assert owner == gone
        workspace.store.claim(key, ELSEWHERE, lease_seconds=600, silent=gone)
        return False

    claims = Claims(workspace=workspace, lease=LEASE, is_alive=claimed_meanwhile)
    assert claims.reconcile(key) is RunState.RUNNING
    lease = workspace.store.lease(key)
    assert lease is not None
    assert lease.owner == ELSEWHERE
    left = Claims(workspace=workspace, lease=LEASE, is_alive=lambda owner: False)
    assert left.reconcile(key) is RunState.FAILED


def test_a_host_that_renews_keeps_its_run_whatever_its_clock_says(
    claims: Claims, workspace: Workspace, key: str, clock: Hand
) -> None:
    """Its clock is two hours behind ours: its leases look as if they had run out long ago."""
    hold(workspace, key, -7200)
    for _ in range(10):
        assert not claims.take(key, Owner.here())
        clock.seconds += LEASE.heartbeat_seconds
        workspace.store.renew(key, ELSEWHERE, lease_seconds=-7200)
        workspace.folder(key).hold(ELSEWHERE, lease_seconds=-7200)


def test_a_lease_that_ran_out_is_watched_for_a_grace_before_it_is_taken(
    claims: Claims, workspace: Workspace, key: str, clock: Hand
) -> None:
    hold(workspace, key, -1)
    assert not claims.take(key, Owner.here())
    clock.seconds = LEASE.grace_seconds - 1
    assert not claims.take(key, Owner.here())
    clock.seconds = LEASE.grace_seconds
    assert claims.take(key, Owner.here())
    assert workspace.store.run(key).attempts == 2


def test_a_silent_host_loses_its_run_even_if_its_lease_lies_in_the_future(
    claims: Claims, workspace: Workspace, key: str, clock: Hand
) -> None:
    """Our clock was set back by a day meanwhile."""
    hold(workspace, key, 86_400)
    assert not claims.take(key, Owner.here())
    clock.seconds = LEASE.seconds - 1
    assert not claims.take(key, Owner.here())
    clock.seconds = LEASE.seconds
    assert claims.take(key, Owner.here())


def test_a_worker_that_renews_its_folder_is_respected_though_its_scheduler_is_gone(
    claims: Claims, workspace: Workspace, key: str, clock: Hand
) -> None:
    """The database's lease runs out, because nobody is left to renew it."""
    hold(workspace, key, -1)
    for _ in range(10):
        assert not claims.take(key, Owner.here())
        clock.seconds += LEASE.heartbeat_seconds
        workspace.folder(key).hold(ELSEWHERE, lease_seconds=LEASE.seconds)


def test_a_folder_is_respected_by_a_new_database(
    workspace: Workspace, key: str, tmp_path: Path, recipe: RecipeWriter
) -> None:
    """The database was deleted while another host trained."""
    hold(workspace, key, 60)
    for file in workspace.runs.glob("kdctl.db*"):
        file.unlink()
    with workflows.open_workspace(workspace.runs, tmp_path / "data") as anew:
        (plan,) = workflows.plan_training(recipe("method = 'ce'", teacher=""), anew).runs
        anew.store.add_runs([plan.planned()])
        assert not Claims(workspace=anew, lease=LEASE).take(key, Owner.here())
        assert anew.store.run(key).state is RunState.PLANNED


def test_a_process_of_this_host_that_ended_is_not_waited_for(
    claims: Claims, workspace: Workspace, key: str
) -> None:
    here = Owner.here()
    boot, namespace, _ = here.token.split(":")
    gone = Owner(
        host=here.host, pid=here.pid, token=f"{boot}:{namespace}:1"
    )  # an earlier one with our number
    hold(workspace, key, 600, gone)
    assert claims.take(key, here)


def test_a_failed_run_whose_worker_dies_before_it_begins_again_has_not_failed_again(
    claims: Claims, workspace: Workspace, key: str
) -> None:
    worker, folder = ELSEWHERE, workspace.folder(key)
    plan = workspace.store.run(key)
    hold(workspace, key, seconds=600)
    folder.write_failure(Mistake(problem="out of luck", hint="try again"))
    workspace.store.release(key, worker, state=RunState.FAILED, reason="out of luck")
    folder.let_go(worker)
    assert not claims.take(key, worker)
    assert claims.take(key, worker, retry_failed=True)
    recorder = IndexRecorder(workspace=workspace, progress=Silent(), lease=LEASE)
    reason = "its worker was killed by SIGKILL"
    assert recorder.close(plan, worker, reason) is RunState.INTERRUPTED  # type: ignore[arg-type]
    assert workspace.store.run(key).reason == reason
    assert not recorder.failures
